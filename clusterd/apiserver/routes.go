package apiserver

import (
	"net/http"
	"reflect"
	"slices"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// doc is what OpenAPI says of a route.
type doc struct {
	summary string
	query   []param
	header  []param
	in, out reflect.Type // bodies in JSON; nil: none, or not JSON
	media   string       // of an answer that is not JSON
	body    string       // media of a body that is not JSON
	list    bool         // answers a list of out
	status  int          // of success; by default 200
}

// param is one query parameter or header.
type param struct{ name, doc string }

var (
	askStale  = param{"stale", "true: answer from what this server has, without asking the others."}
	askDryRun = param{"dry_run", "true: check and answer as if, but change nothing."}
	// Whose connection breaks off learns by it whether he may have another.
	askWhether = param{"dry_run", "true: only check whether it may be, and answer 204."}
	ifMatch    = param{"If-Match", "Generation the object must have."}
	ifAbsent   = param{"If-None-Match", "*: create only, the object must not exist."}
	requestID  = param{api.HeaderRequestID, "Identifies a write: sent again, it is answered from what the first one did."}
	fence      = param{api.HeaderFence, "Revision of the leader's fence: the write fails once another server leads."}
	writes     = []param{requestID, fence}
)

const onePod = "/v1/namespaces/{namespace}/pods/{name}"

// routes is the whole API: the same rows for every kind, and a few of their own.
func (s *Server) routes() []route {
	var all []route
	for _, k := range api.Kinds {
		all = append(all, kindRoutes(s.kinds[k.Info().Plural])...)
	}
	for _, plural := range []string{"configs", "secrets"} {
		all = append(all, route{method: "GET", path: "/v1/namespaces/{namespace}/" + plural + "/{name}/versions/{hash}", kind: s.kinds[plural], act: api.VerbRead,
			serve: (*Server).serveVersion, doc: doc{summary: "What one version contains, for a node that runs a pod which uses it", out: reflect.TypeFor[api.ContentVersion]()}})
	}
	pods, nodes := s.kinds["pods"], s.kinds["nodes"]
	return append(all,
		route{method: "GET", path: onePod + "/logs", kind: pods, act: api.VerbLogs, serve: servePodStream("logs"), doc: doc{
			summary: "Logs of a pod's container, from its node", media: "text/plain", query: []param{
				{"container", "Which container; by default the main one."}, {"follow", "true: go on with what is written from now."},
				{"tail", "Only the last lines, that many."}, {"since", "Only lines of this last while, such as 10m."}, {"previous", "true: of the run before the last restart."},
				{"timestamps", "true: begin each line with when it was written."}}}},
		route{method: "GET", path: onePod + "/usage", kind: pods, act: api.VerbRead, serve: (*Server).servePodUsage, doc: doc{
			summary: "What a pod uses now, measured by its node", out: reflect.TypeFor[api.UsageAnswer]()}},
		route{method: "GET", path: "/v1/usage", act: api.VerbRead, serve: (*Server).serveUsage, doc: doc{
			summary: "What pods use now, measured by their nodes", out: reflect.TypeFor[api.UsageAnswer](), query: []param{{"namespace", "Only pods of this one."}}}},
		route{method: "POST", path: onePod + "/exec", kind: pods, act: api.VerbExec, serve: servePodStream("exec"), doc: doc{
			summary: "Run a command in a container: upgrade the connection to clusterd-exec", status: http.StatusSwitchingProtocols, query: []param{
				{"container", "Which container; by default the main one."}, {"command", "The command, one parameter per word."}, {"tty", "true: with a terminal."}, {"stdin", "true: with input."}, askWhether}}},
		route{method: "POST", path: onePod + "/connect", kind: pods, act: api.VerbConnect, serve: servePodStream("connect"), doc: doc{
			summary: "Connect to a port of a pod: upgrade the connection to clusterd-exec", status: http.StatusSwitchingProtocols, query: []param{
				{"port", "The port, by number."}, askWhether}}},
		route{method: "GET", path: onePod + "/drained", kind: pods, act: api.VerbRead, serve: (*Server).serveDrained, doc: doc{
			summary: "Wait until no node sends new connections to the pod", out: reflect.TypeFor[api.DrainedAnswer](), query: []param{{"timeout", "How long to wait at most, 2s by default."}}}},
		route{method: "POST", path: "/v1/nodes/{name}/applied", kind: nodes, act: api.VerbStatus, routine: true, serve: (*Server).serveApplied, doc: doc{
			summary: "A node's proxy reports how far it has followed the endpoints", in: reflect.TypeFor[api.AppliedReport](), status: http.StatusNoContent}},
		route{method: "POST", path: "/v1/nodes/{name}/lease", kind: nodes, act: api.VerbStatus, routine: true, serve: (*Server).serveLease, doc: doc{
			summary: "A node renews its run lease with the leader", out: reflect.TypeFor[api.LeaseAnswer]()}},
		route{method: "POST", path: "/v1/rebalance", act: api.VerbMove, serve: (*Server).serveRebalance, doc: doc{
			summary: "Spread apps over the nodes again and move pods off the fullest, each once its replacement is ready; answers which", out: reflect.TypeFor[api.Rebalance](),
			query: []param{{"namespace", "Only pods of this one."}, askDryRun}}},
		route{method: "POST", path: "/v1/batch", verb: "batch", act: api.VerbWrite, routine: true, serve: (*Server).serveBatch, doc: doc{
			summary: "Many writes in one transaction, or none", in: reflect.TypeFor[api.Batch](), out: reflect.TypeFor[api.BatchAnswer](), header: writes}},
		route{method: "POST", path: "/v1/events", act: api.VerbReport, routine: true, serve: (*Server).serveEvent, doc: doc{
			summary: "Report what happened to an object", in: reflect.TypeFor[api.EventReport](), status: http.StatusAccepted}},
		route{method: "POST", path: "/v1/images", act: api.VerbLoad, serve: (*Server).serveImages, doc: doc{
			summary: "Load a tar in OCI layout into every connected node", body: "application/x-tar", media: "application/x-ndjson", out: reflect.TypeFor[api.ImageProgress]()}},
		route{method: "DELETE", path: "/v1/images", act: api.VerbLoad, serve: (*Server).serveRemoveImage, doc: doc{
			summary: "Remove an image from every connected node that no pod needs it on", media: "application/x-ndjson", out: reflect.TypeFor[api.ImageProgress](),
			query: []param{{"reference", "Which image."}}}},
		route{method: "GET", path: "/v1/images/{name}/archive", kind: s.kinds["images"], act: api.VerbRead, serve: (*Server).serveArchive, doc: doc{
			summary: "An image that was loaded by hand, for a node that lacks it, from one that has it", media: "application/x-tar"}},
		route{method: "GET", path: "/v1/nodes/{name}/images", kind: nodes, act: api.VerbRead, serve: askNode("/v1/images"), doc: doc{
			summary: "The images a node has, from its agent", out: reflect.TypeFor[api.NodeImages]()}},
		route{method: "GET", path: "/v1/nodes/{name}/metrics", kind: nodes, act: api.VerbRead, serve: askNode("/metrics"), doc: doc{
			summary: "Numbers about a node, for Prometheus, from its agent", media: "text/plain"}},
		route{method: "GET", path: "/v1/keys", act: api.VerbRotate, serve: (*Server).serveKeys, doc: doc{
			summary: "The keys that members share, by their ids, and what a rotation waits for", out: reflect.TypeFor[api.Keys]()}},
		route{method: "POST", path: "/v1/keys/{what}", act: api.VerbRotate, serve: (*Server).serveRotate, doc: doc{
			summary: "Change keys for new ones: gossip, authorities or secrets", out: reflect.TypeFor[api.Keys](), query: []param{
				{"forget", "true: of authorities, trust the newest alone; of secrets, remove older keys: backups made before cannot be read then."}}}},
		route{method: "POST", path: "/v1/snapshot", act: api.VerbSnapshot, serve: (*Server).serveSnapshot, doc: doc{
			summary: "Save all there is, as one file to restore from", in: reflect.TypeFor[api.SnapshotRequest](), media: "application/x-tar"}},
		route{method: "POST", path: "/v1/join", open: true, act: api.VerbJoin, serve: (*Server).serveJoin, doc: doc{
			summary: "Let a machine in that has a join token", in: reflect.TypeFor[pki.JoinRequest](), out: reflect.TypeFor[pki.JoinResponse]()}},
		route{method: "POST", path: "/v1/renew", act: api.VerbJoin, serve: (*Server).serveRenew, doc: doc{
			summary: "Renew the certificate of the node that asks", in: reflect.TypeFor[pki.RenewRequest](), out: reflect.TypeFor[pki.JoinResponse]()}},
		route{method: "GET", path: "/v1/tunnel", act: api.VerbConnect, serve: (*Server).serveTunnel, doc: doc{
			summary: "An agent's connection: upgrade to clusterd-tunnel", status: http.StatusSwitchingProtocols}},
		route{method: "GET", path: "/v1/openapi.json", act: api.VerbRead, serve: (*Server).serveOpenAPI, doc: doc{summary: "This description", media: "application/json"}},
		route{method: "GET", path: "/metrics", act: api.VerbRead, always: true, serve: (*Server).serveMetrics, doc: doc{summary: "Numbers about this server, for Prometheus", media: "text/plain"}},
		route{method: "GET", path: "/healthz", open: true, act: api.VerbRead, serve: (*Server).serveHealth, doc: doc{summary: "The process serves", media: "text/plain"}},
		route{method: "GET", path: "/readyz", open: true, act: api.VerbRead, serve: (*Server).serveReady, doc: doc{summary: "Reads and writes are possible", media: "text/plain"}},
	)
}

// kindRoutes are the rows every kind has.
func kindRoutes(k *kind) []route {
	all, one := "/v1/"+k.info.Plural, "/v1/"+k.info.Plural+"/{name}"
	list := doc{summary: "List or watch " + k.info.Plural, list: true, query: []param{
		{"label", "Only objects with this label, key=value; repeat for more."},
		{"limit", "At most so many; the answer's continue leads to the rest."},
		{"continue", "Where the page before ended."},
		{"watch", "true: stream changes as lines of JSON instead."},
		{"from", "With watch: only changes after this revision; without, all objects come first."},
		askStale,
	}}
	for _, name := range k.info.Indexes {
		list.query = append(list.query, param{name, "Only objects whose " + name + " is this."})
	}
	var rows []route
	if k.namespaced() {
		one = "/v1/namespaces/{namespace}/" + k.info.Plural + "/{name}"
		rows = append(rows, route{method: "GET", path: "/v1/namespaces/{namespace}/" + k.info.Plural, verb: "list", act: api.VerbRead, serve: (*Server).serveList, doc: list})
	}
	remove := "Delete one object"
	query := []param{{"uid", "Only this incarnation."}, askDryRun}
	if k.info.TwoStep {
		remove = "Ask for the deletion of one object; it goes once what depends on it is gone"
		query = append(query, param{"final", "true: remove it for good."})
	}
	rows = append(rows,
		route{method: "GET", path: all, verb: "list", act: api.VerbRead, serve: (*Server).serveList, doc: list},
		route{method: "GET", path: one, verb: "get", act: api.VerbRead, serve: (*Server).serveGet, doc: doc{summary: "Read one object", query: []param{askStale}}},
		route{method: "PUT", path: one, verb: "put", act: api.VerbWrite, serve: (*Server).servePut, doc: doc{summary: "Create one object, or replace its spec and labels",
			in: k.info.Object, query: []param{askDryRun}, header: append([]param{ifAbsent, ifMatch}, writes...)}},
		route{method: "DELETE", path: one, verb: "delete", act: api.VerbDelete, serve: (*Server).serveDelete, doc: doc{summary: remove, query: query, header: append([]param{ifMatch}, writes...)}},
		route{method: "PUT", path: one + "/status", verb: "status", act: api.VerbStatus, routine: true, serve: putStatus(""), doc: doc{summary: "Replace the status of one object", in: k.info.Object, header: writes}},
	)
	if slices.Contains(planned, k.info.Name) {
		rows = append(rows, route{method: "POST", path: one + "/plan", verb: "plan", act: api.VerbPlan, serve: (*Server).servePlan, doc: doc{
			summary: "Say what writing the object of the body would do, and write nothing", in: k.info.Object, out: reflect.TypeFor[api.WritePlan](), query: []param{{"nodes", "true: say of each node whether a pod could run there."}}}})
	}
	if api.Explained(k.info.Name) {
		rows = append(rows, route{method: "GET", path: one + "/why", verb: "why", act: api.VerbRead, serve: (*Server).serveWhy, doc: doc{
			summary: "Why the object is as it is, and the way out", out: reflect.TypeFor[api.Explanation](), query: []param{askStale}}})
	}
	for _, part := range k.info.Parts {
		rows = append(rows, route{method: "PUT", path: one + "/" + part, verb: "status", act: partVerb(part), routine: true, serve: putStatus(part), doc: doc{
			summary: "Replace the " + part + " in the status of one object", in: k.info.Object, header: writes}})
	}
	for i := range rows {
		rows[i].kind = k
		if rows[i].doc.out == nil {
			rows[i].doc.out = k.info.Object
		}
	}
	return rows
}

// partVerb is what writing a part of a status comes to. People write the intent
// of an app, and that a node is off; moves are asked for by whoever may move.
func partVerb(part string) api.Verb {
	switch part {
	case "intent", "off":
		return api.VerbWrite
	case "move":
		return api.VerbMove
	}
	return api.VerbStatus
}

func putStatus(part string) func(*Server, http.ResponseWriter, *request) error {
	return func(s *Server, w http.ResponseWriter, r *request) error { return s.serveStatus(w, r, part) }
}
