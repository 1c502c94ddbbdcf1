package apiserver

import (
	"encoding/json"

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
)

// allow is the one place that says who may do what. o is the object as it is,
// where it matters and exists.
//
// Users with a token, servers and the system may do everything; nodes may read
// what pods and services need, and write only what is about themselves.
func allow(id Identity, v verb, k *kind, name string, o *object) error {
	switch id.Role {
	case RoleSystem, RoleServer, RoleUser:
		return nil
	case RoleNode:
		switch {
		case v == verbRead && k.info.Name != api.Tokens.Name:
			return nil
		case v == verbStatus && k.info.Name == api.Nodes.Name && name == id.Name:
			return nil
		case v == verbStatus && k.info.Name == api.Pods.Name && nodeOf(o) == id.Name:
			return nil
		}
	}
	msg := "%s may not %s %s"
	if v == verbStatus && id.Role == RoleNode {
		msg += " of another node"
	}
	return api.Errorf(api.Denied, msg, id, v, k.info.Plural)
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
