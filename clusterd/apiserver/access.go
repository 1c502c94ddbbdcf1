package apiserver

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// ask is what somebody wants to do: to one object, or with an empty name to all
// of a namespace, or of all namespaces.
type ask struct {
	verb            api.Verb
	kind            *kind
	namespace, name string
	part            string  // of its status, or beside it
	object          *object // as it is, if it exists: what a node may do depends on it
	own             bool    // only those of the node that asks
}

// to asks for the object of r's path.
func (r *request) to(verb api.Verb, o *object) ask {
	return ask{verb: verb, kind: r.kind, namespace: r.PathValue("namespace"), name: r.PathValue("name"), object: o}
}

// allow is the one place that says who may do what.
//
// The system may do everything, and users what the roles of their token give;
// nodes may read their own pods and what it takes to reach the others, and write
// only what is about themselves. Servers have the store, and the keys of
// everything: their certificates only let them see who is a member.
func allow(by caller, a ask) error {
	kind := a.kind.info.Name
	switch {
	case a.verb == api.VerbWrite && kind == api.Contents.Name:
		return api.Errorf(api.Denied, "versions are written with their config or secret, and never by themselves")
	case a.verb == api.VerbStatus && kind == api.Tokens.Name && by.Role != RoleSystem:
		return api.Errorf(api.Denied, "how often a token was used is for the servers to count")
	}
	switch by.Role {
	case RoleSystem:
		return nil
	case RoleUser:
		if by.rights.Give(a.right()) {
			return nil
		}
		return by.lacks(a)
	case RoleServer:
		if a.verb == api.VerbRead && slices.Contains(forServers, kind) {
			return nil
		}
	case RoleNode:
		if allowNode(by.Name, a) {
			return nil
		}
	}
	msg := "%s may not %s %s"
	if by.Role == RoleNode && (a.verb == api.VerbStatus || a.verb == api.VerbRead && kind == api.Pods.Name) {
		msg += " of another node"
	}
	return api.Errorf(api.Denied, msg, by.Identity, phrase(a.verb), a.kind.info.Plural)
}

func allowNode(node string, a ask) bool {
	switch kind := a.kind.info.Name; a.verb {
	case api.VerbRead:
		switch {
		case a.part != "":
		case kind == api.Pods.Name:
			return a.own || nodeOf(a.object) == node
		case kind == api.Volumes.Name:
			return a.own || volumeNode(a.object) == node
		default:
			return slices.Contains(forNodes, kind)
		}
	case api.VerbStatus:
		switch kind {
		case api.Nodes.Name:
			return a.part == "" && a.name == node
		case api.Pods.Name:
			return a.part == "" && nodeOf(a.object) == node
		case api.Volumes.Name:
			return a.part == "data" && volumeNode(a.object) == node
		}
	}
	return false
}

// right is what a role has to give for it.
func (a ask) right() api.Right { return api.RightTo(a.verb, a.kind.info, a.namespace, a.name) }

// lacks is the error of a user whose roles do not give it: which rule would.
func (c caller) lacks(a ask) error {
	right := a.right()
	what := phrase(a.verb) + " " + a.kind.info.Plural
	switch {
	case right.Namespace == api.Every:
		what += " of all namespaces"
		if some := c.rights.In(right); some != nil {
			return api.Errorf(api.Denied, "token %s may not %s, only those of %s: ask for one namespace, or get a role with the rule %s", c.Name, what, strings.Join(some, ", "), right.Rule().HCL())
		}
	case right.Namespace != "" && a.kind.namespaced():
		what += " in " + right.Namespace
	}
	return api.Errorf(api.Denied, "token %s may not %s: it needs a role with the rule %s", c.Name, what, right.Rule().HCL())
}

// phrase is a verb before what it is done to.
func phrase(v api.Verb) string {
	switch v {
	case api.VerbPlan:
		return "plan writes of"
	case api.VerbFinalize:
		return "remove for good"
	case api.VerbStatus:
		return "write the status of"
	case api.VerbReport:
		return "report on"
	case api.VerbLogs:
		return "read the logs of"
	case api.VerbExec:
		return "run commands in"
	case api.VerbConnect:
		return "connect to ports of"
	case api.VerbRotate:
		return "rotate the keys of"
	case api.VerbSnapshot:
		return "save a snapshot of all by"
	}
	return string(v)
}

// forServers are the kinds that servers may read by their certificate.
var forServers = []string{api.Nodes.Name, api.Servers.Name}

// forNodes are the kinds that every node may read all of. None of them says
// what a workload is made of: that is for the node that runs it.
var forNodes = []string{api.Nodes.Name, api.Servers.Name, api.Services.Name, api.EndpointSlices.Name, api.Images.Name, api.Namespaces.Name}

// asked is what a list or watch asks for. A node asks for its own.
func (s *selector) asked(id Identity) ask {
	return ask{verb: api.VerbRead, kind: s.kind, namespace: s.namespace, own: id.Role == RoleNode && s.fields["node"] == id.Name}
}

// allowVersion says who gets what a config or secret contains: a node, while a
// pod that uses just that version is bound to it and has not ended. Who may read
// a config may read its versions; the values of secrets are for nobody else.
func (s *Server) allowVersion(by caller, snap *snapshot, k *kind, namespace, of, hash string) error {
	if id := by.Identity; id.Role != RoleNode {
		if k.info.Name == api.Configs.Name {
			return allow(by, ask{verb: api.VerbRead, kind: k, namespace: namespace, name: strings.TrimPrefix(of, "config/")})
		}
		return api.Errorf(api.Denied, "%s may not read the values of %s: only nodes get them, that run a pod which uses them", id, of)
	}
	id := by.Identity
	uses := false
	snap.eachWhere(s.kinds["pods"], "node", id.Name, func(o *object) bool {
		var spec struct{ Contents map[string]string }
		uses = o.meta.Namespace == namespace && !phaseOf(o).Ended() && json.Unmarshal(o.spec, &spec) == nil && spec.Contents[of] == hash
		return !uses
	})
	if !uses {
		return api.Errorf(api.Denied, "%s may not read %s: it runs no pod that uses this version", id, of)
	}
	return nil
}

// onlyNode lets a node speak for itself, and for others who may write what they
// are like.
func (s *Server) onlyNode(by caller, node string) error {
	if by.Role == RoleNode && by.Name != node {
		return api.Errorf(api.Denied, "%s may not speak for node %s", by.Identity, node)
	}
	return allow(by, ask{verb: api.VerbStatus, kind: s.kinds["nodes"], name: node})
}

// nodeOf returns the node a pod is bound to.
func nodeOf(o *object) string {
	if o != nil && o.index != nil && o.kind.info.Name == api.Pods.Name {
		return o.indexed("node")
	}
	var spec struct{ Node string }
	if o == nil || json.Unmarshal(o.spec, &spec) != nil {
		return ""
	}
	return spec.Node
}
