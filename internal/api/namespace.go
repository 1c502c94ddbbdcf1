package api

// Namespaces are teams.
var Namespaces = &Kind[*Namespace]{
	Name: "Namespace", Plural: "namespaces", Aliases: []string{"namespace", "ns"}, Scope: Cluster, TwoStep: true,
	Doc: "A team: the space its objects' names live in.",
	Columns: []Column[*Namespace]{
		{Name: "PHASE", Of: func(n *Namespace) string {
			if n.Meta.Deleting() {
				return "deleting"
			}
			return "active"
		}},
		{Name: "USED/QUOTA", Wide: true, Of: func(n *Namespace) string { return Deref(n.Spec.Quota).column(n.Status.Used) }},
		{Name: "AGE", Of: func(n *Namespace) string { return Age(n.Meta.CreatedAt) }},
		{Name: "MESSAGE", Wide: true, Of: func(n *Namespace) string { return n.Status.Message }},
	},
}

// DefaultNamespace exists from the first start.
const DefaultNamespace = "default"

// Namespace is a team.
type Namespace = Object[NamespaceSpec, NamespaceStatus]

// NamespaceSpec is what a platform team grants.
type NamespaceSpec struct {
	Description string    `json:"description,omitempty" doc:"Who and what the namespace is for."`
	Quota       *Quota    `json:"quota,omitempty" doc:"The most its apps, jobs and volumes may ask for together."`
	Defaults    *Defaults `json:"defaults,omitempty" doc:"What containers get that do not say; fixed when an app is written."`
	Powers      *Powers   `json:"powers,omitempty" doc:"What its pods may do beyond the usual."`
}

// Quota is the most a namespace may ask for. An app counts with replicas or
// scale.max times what a pod reserves.
type Quota struct {
	CPU      CPU    `json:"cpu,omitempty" doc:"Processor time that pods reserve."`
	Memory   Memory `json:"memory,omitempty" doc:"Memory that pods reserve."`
	Replicas *int   `json:"replicas,omitempty" doc:"Pods."`
	Volumes  *int   `json:"volumes,omitempty" doc:"Volumes."`
	Storage  Memory `json:"storage,omitempty" doc:"Sizes of volumes."`
}

// QuotaPath is where the error is of a pod that a namespace's quota leaves no
// room for.
const QuotaPath = "quota"

// Defaults are what containers get that do not say.
type Defaults struct {
	CPU    CPU    `json:"cpu,omitempty" doc:"CPU of a container that does not say."`
	Memory Memory `json:"memory,omitempty" doc:"Memory of a container that does not say."`
}

// Powers are what pods may do beyond the usual. None is given by default.
type Powers struct {
	Privileged   *bool    `json:"privileged,omitempty" doc:"security.privileged and seccomp = unconfined. Default: false."`
	HostNetwork  *bool    `json:"host_network,omitempty" doc:"host_network. Default: false."`
	HostPaths    []string `json:"host_paths,omitempty" doc:"Directories of nodes that mounts may show, with all below."`
	Devices      []string `json:"devices,omitempty" doc:"Devices of nodes that containers may use."`
	Capabilities []string `json:"capabilities,omitempty" doc:"Capabilities that security.add may name."`
	NodePorts    *bool    `json:"node_ports,omitempty" doc:"Services may have node ports. Default: true."`
}

// Validate reports every violation.
func (s NamespaceSpec) Validate() error {
	var errs Errors
	if len(s.Description) > 1000 {
		errs.Addf("description", "longer than 1000 bytes")
	}
	if q := s.Quota; q != nil {
		errs.Add("quota.cpu", checkCPU(q.CPU))
		errs.Add("quota.memory", checkMemory(q.Memory))
		errs.Add("quota.storage", checkMemory(q.Storage))
		for field, n := range map[string]*int{"quota.replicas": q.Replicas, "quota.volumes": q.Volumes} {
			if n != nil && *n < 0 {
				errs.Addf(field, "must not be negative")
			}
		}
	}
	if d := s.Defaults; d != nil {
		errs.Add("defaults", Container{Image: "any", CPU: d.CPU, Memory: d.Memory}.validate())
	}
	if p := s.Powers; p != nil {
		for i, dir := range p.HostPaths {
			if err := checkHostPath(dir); err != nil {
				errs.Add("powers."+index("host_paths", i), err)
			}
		}
		errs.Add("powers", Security{Add: p.Capabilities, Devices: p.Devices}.validate())
	}
	return errs.Err()
}

// WithDefaults fills in every unset field that has a default.
func (s NamespaceSpec) WithDefaults() NamespaceSpec {
	p := Deref(s.Powers)
	p.NodePorts = or(p.NodePorts, true)
	s.Powers = &p
	return s
}

// NamespaceStatus is written by the namespace loop.
type NamespaceStatus struct {
	Message  string   `json:"message,omitempty" doc:"What a deletion waits for."`
	Blockers []string `json:"blockers,omitempty" doc:"Objects a deletion waits for, at most 10."`
	Used     Used     `json:"used,omitzero" doc:"What its quota is charged for."`
}
