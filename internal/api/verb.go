package api

import (
	"slices"
	"strings"
)

// Verb is what somebody does to objects of a kind: roles give verbs, and the
// audit log tells of them.
type Verb string

// The verbs.
const (
	VerbRead     Verb = "read"     // get, list, watch, why, usage
	VerbPlan     Verb = "plan"     // try a write, and write nothing; who may write may plan
	VerbWrite    Verb = "write"    // create, and replace the spec
	VerbDelete   Verb = "delete"   // ask for the deletion
	VerbFinalize Verb = "finalize" // remove for good what is being deleted
	VerbStatus   Verb = "status"   // say how it is
	VerbReport   Verb = "report"   // tell an event of it
	VerbLogs     Verb = "logs"     // of pods
	VerbExec     Verb = "exec"     // in pods
	VerbConnect  Verb = "connect"  // to ports of pods
	VerbMove     Verb = "move"     // pods to other nodes
	VerbBind     Verb = "bind"     // pods to nodes
	VerbLoad     Verb = "load"     // images into nodes, and out of them
	VerbJoin     Verb = "join"     // machines as nodes or servers
	VerbRotate   Verb = "rotate"   // the keys that members share
	VerbSnapshot Verb = "snapshot" // all there is, as one file
)

var verbs = []Verb{VerbRead, VerbPlan, VerbWrite, VerbDelete, VerbFinalize, VerbStatus, VerbReport, VerbLogs, VerbExec,
	VerbConnect, VerbMove, VerbBind, VerbLoad, VerbJoin, VerbRotate, VerbSnapshot}

// VerbsOf returns what can be done to objects of a kind.
func VerbsOf(k Info) []Verb {
	all := slices.Clone(verbs[:slices.Index(verbs, VerbLogs)])
	switch k.Name {
	case Pods.Name:
		all = append(all, VerbLogs, VerbExec, VerbConnect, VerbMove, VerbBind)
	case Images.Name:
		all = append(all, VerbLoad)
	case Nodes.Name:
		all = append(all, VerbJoin)
	case Servers.Name:
		all = append(all, VerbJoin, VerbRotate, VerbSnapshot)
	}
	return all
}

func joined(all []Verb) string {
	words := make([]string, len(all))
	for i, v := range all {
		words[i] = string(v)
	}
	return strings.Join(words, ", ")
}
