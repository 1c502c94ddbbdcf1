package apiserver

import (
	"net/http"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// routes is the whole API: the same rows for every kind, and a few of their own.
func (s *Server) routes() []route {
	var all []route
	for _, k := range api.Kinds {
		all = append(all, kindRoutes(s.kinds[k.Info().Plural])...)
	}
	return append(all,
		route{method: "POST", path: "/v1/batch", serve: (*Server).serveBatch},
		route{method: "POST", path: "/v1/events", serve: (*Server).serveEvent},
		route{method: "GET", path: onePod + "/logs", kind: s.kinds["pods"], serve: servePodStream("logs")},
		route{method: "POST", path: onePod + "/exec", kind: s.kinds["pods"], serve: servePodStream("exec")},
		route{method: "GET", path: onePod + "/drained", kind: s.kinds["pods"], serve: (*Server).serveDrained},
		route{method: "POST", path: "/v1/nodes/{name}/applied", serve: (*Server).serveApplied},
		route{method: "GET", path: "/v1/tunnel", serve: (*Server).serveTunnel},
		route{method: "POST", path: "/v1/join", open: true, serve: (*Server).serveJoin},
		route{method: "POST", path: "/v1/renew", serve: (*Server).serveRenew},
		route{method: "GET", path: "/healthz", open: true, serve: (*Server).serveHealth},
		route{method: "GET", path: "/readyz", open: true, serve: (*Server).serveReady},
	)
}

const onePod = "/v1/namespaces/{namespace}/pods/{name}"

// kindRoutes are the rows every kind has.
func kindRoutes(k *kind) []route {
	all, one := "/v1/"+k.info.Plural, "/v1/"+k.info.Plural+"/{name}"
	var rows []route
	if k.namespaced() {
		one = "/v1/namespaces/{namespace}/" + k.info.Plural + "/{name}"
		rows = append(rows, route{method: "GET", path: "/v1/namespaces/{namespace}/" + k.info.Plural, serve: (*Server).serveList})
	}
	rows = append(rows,
		route{method: "GET", path: all, serve: (*Server).serveList},
		route{method: "GET", path: one, serve: (*Server).serveGet},
		route{method: "PUT", path: one, serve: (*Server).servePut},
		route{method: "DELETE", path: one, serve: (*Server).serveDelete},
		route{method: "PUT", path: one + "/status", serve: putStatus("")},
	)
	for _, part := range k.info.Parts {
		rows = append(rows, route{method: "PUT", path: one + "/" + part, serve: putStatus(part)})
	}
	for i := range rows {
		rows[i].kind = k
	}
	return rows
}

func putStatus(part string) func(*Server, http.ResponseWriter, *request) error {
	return func(s *Server, w http.ResponseWriter, r *request) error { return s.serveStatus(w, r, part) }
}
