package api

// Verb is what somebody does to objects of a kind: roles give verbs, and the
// audit log tells of them.
type Verb string

// The verbs.
const (
	VerbRead     Verb = "read"     // get, list, watch, why, usage
	VerbPlan     Verb = "plan"     // try a write, and write nothing
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
	VerbRotate   Verb = "rotate"   // the keys of secrets
	VerbSnapshot Verb = "snapshot" // all there is, as one file
)
