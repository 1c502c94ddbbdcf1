package api

// Namespaces are teams.
var Namespaces = Kind[NamespaceSpec, NamespaceStatus]{
	Name: "Namespace", Plural: "namespaces", Aliases: []string{"namespace", "ns"}, Scope: Cluster, TwoStep: true,
	Doc: "A team: the space its objects' names live in.",
	Columns: []Column[NamespaceSpec, NamespaceStatus]{
		{Name: "PHASE", Of: func(n *Namespace) string {
			if n.Meta.Deleting() {
				return "deleting"
			}
			return "active"
		}},
		{Name: "MESSAGE", Wide: true, Of: func(n *Namespace) string { return n.Status.Message }},
		{Name: "AGE", Of: func(n *Namespace) string { return Age(n.Meta.CreatedAt) }},
	},
}

// DefaultNamespace exists from the first start.
const DefaultNamespace = "default"

// Namespace is a team.
type Namespace = Object[NamespaceSpec, NamespaceStatus]

// NamespaceSpec is what a platform team grants.
type NamespaceSpec struct {
	Description string `json:"description,omitempty" doc:"Who and what the namespace is for."`
}

// Validate reports every violation.
func (s NamespaceSpec) Validate() error {
	if len(s.Description) > 1000 {
		return Errors{{"description", "longer than 1000 bytes"}}
	}
	return nil
}

// WithDefaults returns s.
func (s NamespaceSpec) WithDefaults() NamespaceSpec { return s }

// NamespaceStatus is written by the namespace loop.
type NamespaceStatus struct {
	Message  string   `json:"message,omitempty" doc:"What a deletion waits for."`
	Blockers []string `json:"blockers,omitempty" doc:"Objects a deletion waits for, at most 10."`
}
