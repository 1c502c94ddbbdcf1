package apiserver

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"

	"github.com/hashicorp/go-hclog"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Tunnels reaches the agents through the connections they opened.
type Tunnels interface {
	// ServeUpgrade turns the request of an agent into its connection, and
	// returns when that has ended. It ends it with the request's context.
	ServeUpgrade(w http.ResponseWriter, r *http.Request, node string)
	// Client returns a client whose requests all go to the agent of node.
	Client(node string) (*http.Client, error)
	// Connected returns the nodes whose agents are connected here.
	Connected() []string
}

// serveTunnel answers GET /v1/tunnel.
func (s *Server) serveTunnel(w http.ResponseWriter, r *request) error {
	if r.by.Role != RoleNode {
		return api.Errorf(api.Denied, "only a node may open a tunnel, with its certificate")
	}
	if s.cfg.Tunnels == nil {
		return errNoTunnels()
	}
	r, stop := s.whileAllowed(r, ask{})
	defer stop()
	s.cfg.Tunnels.ServeUpgrade(w, r.Request, r.by.Name)
	return nil
}

func errNoTunnels() error {
	return api.Errorf(api.Unready, "this server takes no connections from nodes")
}

// pod returns the pod of the path, for who may do verb to it.
func (s *Server) pod(r *request, verb api.Verb) (*object, *snapshot, error) {
	key, err := r.key()
	if err != nil {
		return nil, nil, err
	}
	snap, err := s.latest(r)
	if err != nil {
		return nil, nil, err
	}
	o := snap.get(key)
	if o != nil || r.by.Role != RoleNode { // what is gone was its own
		if err := allow(r.by, r.to(verb, o)); err != nil {
			return nil, nil, err
		}
	}
	if o == nil {
		return nil, nil, s.missing(snap, r.ref())
	}
	return o, snap, nil
}

// servePodStream answers …/logs, …/exec and …/connect of a pod: the agent of its node
// does, through its tunnel.
func servePodStream(what string) func(*Server, http.ResponseWriter, *request) error {
	return func(s *Server, w http.ResponseWriter, r *request) error {
		o, _, err := s.pod(r, r.act)
		if err != nil {
			return err
		}
		node := nodeOf(o)
		if node == "" {
			return conflict(api.Conflict, o.ref(), "has no node yet, so it has not begun: %s", reasonOf(o))
		}
		client, err := s.agent(o.ref(), node)
		if err != nil {
			return err
		}
		if r.flag("dry_run") {
			w.WriteHeader(http.StatusNoContent)
			return nil
		}
		s.auditNow(r)
		s.forward(w, r, r.to(r.act, nil), client, "/v1/pods/"+url.PathEscape(o.meta.UID)+"/"+what, o.ref(), node)
		return nil
	}
}

// agent returns a client of the node's agent.
func (s *Server) agent(ref api.Ref, node string) (*http.Client, error) {
	if s.cfg.Tunnels == nil {
		return nil, errNoTunnels()
	}
	client, err := s.cfg.Tunnels.Client(node)
	if err != nil {
		return nil, conflict(api.Unready, ref, "its node %s is not connected: is the machine up, and its nodeagent running?", node)
	}
	return client, nil
}

// forward passes the request on to an agent and its answer back, byte by byte
// as they come; an upgraded connection both ways.
func (s *Server) forward(w http.ResponseWriter, r *request, a ask, client *http.Client, path string, ref api.Ref, node string) {
	r, stop := s.whileAllowed(r, a)
	defer stop()
	answered := true
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL = &url.URL{Scheme: "http", Host: node, Path: path, RawQuery: p.In.URL.RawQuery}
			p.Out.Host = node
			p.Out.Header.Del("Authorization") // the agent knows the server, not its users
			p.Out.Header.Del("Cookie")
		},
		Transport:     client.Transport,
		FlushInterval: -1,
		ErrorLog:      s.stdlog(),
		ErrorHandler: func(w http.ResponseWriter, hr *http.Request, err error) {
			answered = false
			switch why := whyEnded(hr.Context()); {
			case why != nil:
				s.refuse(w, hr, why)
			case hr.Context().Err() == nil:
				s.refuse(w, hr, conflict(api.Unready, ref, "its node %s stopped answering: %s", node, err))
			}
		},
	}
	proxy.ServeHTTP(w, r.Request)
	if answered && whyEnded(r.Context()) != nil {
		// The agent ends its answer in order when it is left, and what was cut off
		// must not look whole: whoever follows asks again, and hears why.
		panic(http.ErrAbortHandler)
	}
}

func (s *Server) stdlog() *log.Logger {
	return s.log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug})
}

// reasonOf returns what a pod waits for, in words.
func reasonOf(o *object) string {
	typed, err := o.typed()
	if err != nil {
		return ""
	}
	if st := typed.(*api.Pod).Status; st.Message != "" {
		return st.Message
	}
	return "it waits to be scheduled"
}

// problemOf reads the problem an agent answered with.
func problemOf(resp *http.Response) string {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	var p struct{ Detail string }
	if json.Unmarshal(b, &p); p.Detail != "" {
		return p.Detail
	}
	if len(b) > 0 {
		return resp.Status + ": " + string(b[:min(len(b), 300)])
	}
	return resp.Status
}
