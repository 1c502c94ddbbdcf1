package apiserver

import (
	"encoding/json"
	"slices"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// verb is what a caller wants to do to objects of a kind.
type verb string

const (
	verbRead   verb = "read"
	verbWrite  verb = "write"
	verbStatus verb = "write the status of"
	verbPart   verb = "write a part of the status of"
	verbDelete verb = "delete"
	verbFinal  verb = "remove for good"
	verbBind   verb = "bind"
	verbStream verb = "open a stream to"
	verbLoad   verb = "load"
	verbRotate verb = "rotate the keys of"
	// verbSnapshot is about all there is.
	verbSnapshot verb = "save a snapshot of all"
)

// allow is the one place that says who may do what. o is the object as it is,
// where it matters and exists.
//
// Users with a token and the system may do everything; nodes may read their own
// pods and what it takes to reach the others, and write only what is about
// themselves. Servers have the store, and the keys of everything: their
// certificates only let them see who is a member.
func allow(id Identity, v verb, k *kind, name string, o *object) error {
	if v == verbWrite && k.info.Name == api.Contents.Name {
		return api.Errorf(api.Denied, "versions are written with their config or secret, and never by themselves")
	}
	switch id.Role {
	case RoleSystem, RoleUser:
		return nil
	case RoleServer:
		if v == verbRead && slices.Contains(forServers, k.info.Name) {
			return nil
		}
	case RoleNode:
		switch {
		case v == verbRead && slices.Contains(forNodes, k.info.Name):
			return nil
		case v == verbRead && k.info.Name == api.Pods.Name && nodeOf(o) == id.Name:
			return nil
		case (v == verbRead || v == verbPart) && k.info.Name == api.Volumes.Name && volumeNode(o) == id.Name:
			return nil
		case v == verbStatus && k.info.Name == api.Nodes.Name && name == id.Name:
			return nil
		case v == verbStatus && k.info.Name == api.Pods.Name && nodeOf(o) == id.Name:
			return nil
		}
	}
	msg := "%s may not %s %s"
	if id.Role == RoleNode && (v == verbStatus || v == verbRead && k.info.Name == api.Pods.Name) {
		msg += " of another node"
	}
	return api.Errorf(api.Denied, msg, id, v, k.info.Plural)
}

// forServers are the kinds that servers may read by their certificate.
var forServers = []string{api.Nodes.Name, api.Servers.Name}

// forNodes are the kinds that every node may read all of. None of them says
// what a workload is made of: that is for the node that runs it.
var forNodes = []string{api.Nodes.Name, api.Servers.Name, api.Services.Name, api.EndpointSlices.Name, api.Images.Name, api.Namespaces.Name}

// allowList says who may list and watch. A node asks for its own pods.
func allowList(id Identity, sel *selector) error {
	if own := sel.kind.info.Name; id.Role == RoleNode && (own == api.Pods.Name || own == api.Volumes.Name) && sel.fields["node"] == id.Name {
		return nil
	}
	return allow(id, verbRead, sel.kind, "", nil)
}

// allowVersion says who gets what a config or secret contains: a node, while a
// pod that uses just that version is bound to it and has not ended. People read
// configs; the values of secrets are for nobody else.
func (s *Server) allowVersion(id Identity, snap *snapshot, k *kind, namespace, of, hash string) error {
	if id.Role != RoleNode {
		if k.info.Name == api.Configs.Name && id.Role != RoleServer {
			return nil
		}
		return api.Errorf(api.Denied, "%s may not read the values of %s: only nodes get them, that run a pod which uses them", id, of)
	}
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

// onlyNode lets a node speak for itself, and operators for any.
func onlyNode(id Identity, node string) error {
	if id.Role == RoleNode && id.Name != node {
		return api.Errorf(api.Denied, "%s may not speak for node %s", id, node)
	}
	return nil
}

// nodeOf returns the node a pod is bound to.
func nodeOf(o *object) string {
	var spec struct{ Node string }
	if o == nil || json.Unmarshal(o.spec, &spec) != nil {
		return ""
	}
	return spec.Node
}
