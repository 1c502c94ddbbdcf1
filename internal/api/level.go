package api

// Level is up to which level of the cluster this build knows what servers
// write and send. It grows by one with a version whose servers write what those
// of the one before would lose or misread, and only then: versions of one level
// are exchanged at will. A cluster is at the level that all its servers know;
// what a level brings begins once the cluster is at it.
//
//	2  all binds share one guard, where each node had one of its own; a server
//	   that is deleted leaves a note, which one of its name takes away as it joins
const Level = 2

// ServesLevel says why a server that knows level cannot be one of a cluster at
// the level at; "" if it can. One level is between the versions of an upgrade.
func ServesLevel(level, at int) string {
	switch {
	case level < at:
		return "this server's version is too old for that: run the version that the other servers run; there is no way back from a level but a snapshot from before, restored"
	case level > at+1:
		return "this server's version is too new for that: upgrade all servers to a version in between first, and do not leave one out"
	}
	return ""
}
