package apiserver

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// Issuer lets machines in.
type Issuer interface {
	// Issue signs a certificate request for name in role; both are PEM.
	Issue(csr []byte, role, name string) (certificate []byte, err error)
	// CA returns the cluster's CA as PEM.
	CA() []byte
	// GossipKeys returns the keys that members gossip with: they speak the last.
	GossipKeys() [][]byte
}

const maxJoin = 32 << 10

// serveJoin answers POST /v1/join: who has a join token's secret gets a
// certificate for a node or a server. It is the one call that is not
// authenticated before.
func (s *Server) serveJoin(w http.ResponseWriter, r *request) error {
	if s.cfg.Issuer == nil {
		return api.Errorf(api.Unready, "this server lets no machines in")
	}
	req, err := decodeBody[pki.JoinRequest](w, r, maxJoin, r.by.check)
	if err != nil {
		return err
	}
	req.Role = cmp.Or(req.Role, pki.Node)
	r.with = "token:" + req.ID
	k := s.kinds["nodes"]
	if req.Role == pki.Server {
		k = s.kinds["servers"]
	}
	r.does(api.VerbJoin, k.ref("", req.Name))
	var errs api.Errors
	errs.Add("name", api.CheckName(req.Name))
	if req.CSR == "" {
		errs.Addf("csr", "required")
	}
	if req.Role != pki.Node && req.Role != pki.Server {
		errs.Addf("role", "%q is unknown: want node or server", req.Role)
	}
	if errs != nil {
		return invalid(api.Ref{}, errs)
	}
	admit := (*txn).joinNode
	if req.Role == pki.Server {
		admit = (*txn).joinServer
	}
	var node pki.JoinNode
	commit := func(t *txn) (err error) { node, err = admit(t, req); return err }
	// The request is named by its key: who repeats it gets a certificate that
	// only the holder of the key can use.
	by := caller{Identity: Identity{Role(req.Role), req.Name}, program: r.UserAgent(), requestID: "join-" + pki.Hash(req.CSR)}
	// Signed before anything is written: a request that cannot be signed uses up nothing.
	if _, err := s.dryRun(r.Context(), by, commit); err != nil {
		return err
	}
	cert, err := s.cfg.Issuer.Issue([]byte(req.CSR), string(req.Role), req.Name)
	if err != nil {
		return invalid(api.Ref{}, api.Errors{{Path: "csr", Message: "cannot be signed: " + err.Error()}})
	}
	revision, err := s.commit(r.Context(), by, commit)
	if err != nil {
		return err
	}
	r.by = by
	said := s.admission(cert, node)
	if req.Role == pki.Server {
		if said.Server, err = s.welcome(r.Context(), req); err != nil {
			return err
		}
	}
	s.log.Info("a machine joined", "role", req.Role, "name", req.Name, "address", req.Address, "subnet", node.Subnet, "token", req.ID)
	w.Header().Set("Cache-Control", "no-store")
	answer(w, http.StatusOK, revision, marshal(said))
	return nil
}

// admission is what a member needs to know.
func (s *Server) admission(cert []byte, node pki.JoinNode) pki.JoinResponse {
	return pki.JoinResponse{
		Certificate: string(cert), CA: string(s.cfg.Issuer.CA()), GossipKeys: s.cfg.Issuer.GossipKeys(), Node: node,
		Cluster: pki.JoinCluster{PodsCIDR: s.pods.String(), ServicesCIDR: s.services.String()},
		Servers: s.servers(),
	}
}

// servers returns the API addresses of all servers.
func (s *Server) servers() []string {
	var out []string
	if snap := s.cache.now.Load(); snap != nil {
		snap.each(s.kinds["servers"].prefix(""), "", func(o *object) bool {
			var spec api.ServerSpec
			if json.Unmarshal(o.spec, &spec) == nil {
				out = append(out, spec.Address)
			}
			return true
		})
	}
	return out
}

// joinNode uses the token and makes the node, in one transaction. A node that is
// there already keeps its subnet: its machine may have lost its key. One that
// lives is not given away: its name is taken.
func (t *txn) joinNode(req pki.JoinRequest) (pki.JoinNode, error) {
	nodes := t.s.kinds["nodes"]
	again := t.repeats(nodes, req)
	use, err := t.useToken(req, again)
	if err != nil {
		return pki.JoinNode{}, err
	}
	node := t.read(nodes.key("", req.Name))
	if node == nil {
		in, err := openSpec(nodes, "", req.Name, marshal(api.Node{Meta: api.Meta{Name: req.Name, Labels: req.Labels}}))
		if err != nil {
			return pki.JoinNode{}, err
		}
		if node, _, err = t.putSpec(in, precondition{}); err != nil {
			return pki.JoinNode{}, err
		}
	} else if !again {
		if err := t.s.vacant(node); err != nil {
			return pki.JoinNode{}, err
		}
	}
	var eff api.NodeSpec
	if err := json.Unmarshal(node.effective, &eff); err != nil {
		return pki.JoinNode{}, fmt.Errorf("decode effective of %s: %w", node.ref(), err)
	}
	use()
	return pki.JoinNode{Name: req.Name, Subnet: eff.Subnet}, nil
}

// useToken checks the join token of a request. What it returns counts the use,
// unless this very request was counted before.
func (t *txn) useToken(req pki.JoinRequest, again bool) (use func(), err error) {
	var old *object
	var token api.Token
	if plausible(req.ID) {
		if old = t.read(t.s.kinds["tokens"].key("", req.ID)); old != nil {
			if err := json.Unmarshal(old.body, &token); err != nil {
				return nil, fmt.Errorf("decode %s: %w", old.ref(), err)
			}
		}
	}
	wayOut := "make a new one with: clusterd token create --role " + string(req.Role)
	refused := func(format string, args ...any) error { return api.Errorf(api.Unauthenticated, format, args...) }
	switch match := pki.HashMatches(token.Spec.Hash, req.Secret); {
	case !match:
		return nil, refused("the join token is not known to this cluster: it was revoked or mistyped; %s", wayOut)
	case !token.Spec.Joins():
		return nil, refused("this is not a join token but one of role %s", token.Spec.Role)
	case token.Spec.Role != string(req.Role):
		return nil, refused("this join token is not for a %s but for a %s; %s", req.Role, token.Spec.Role, wayOut)
	case expired(&token, t.now):
		return nil, refused("the join token expired on %s: %s", stamp(token.Spec.ExpiresAt), wayOut)
	case token.Spec.Name != "" && token.Spec.Name != req.Name:
		return nil, refused("the join token is for %s %s, and this machine calls itself %s: give it --name %s, or %s", req.Role, token.Spec.Name, req.Name, token.Spec.Name, wayOut)
	case token.Spec.MaxUses > 0 && token.Status.Uses >= token.Spec.MaxUses && !again:
		return nil, refused("the join token is used up: it was good for %d; %s", token.Spec.MaxUses, wayOut)
	}
	return func() {
		if !again {
			used := old.with()
			used.status = marshal(api.TokenStatus{Uses: token.Status.Uses + 1, LastUsed: t.now})
			t.put(used)
		}
	}, nil
}

// vacant says why a machine cannot take node over: another one is it. A
// verdict lags behind, so one without a connection is worth another try.
func (s *Server) vacant(node *object) error {
	var st api.NodeStatus
	if len(node.status) > 0 {
		if err := json.Unmarshal(node.status, &st); err != nil {
			return fmt.Errorf("decode status of %s: %w", node.ref(), err)
		}
	}
	const out = "if this is the same machine, stop its nodeagent and wait until the node is dead; to replace it, delete the node first with: clusterd delete node %s; else give this machine another --name"
	switch v := st.Health.Verdict; {
	case s.cfg.Tunnels != nil && slices.Contains(s.cfg.Tunnels.Connected(), node.meta.Name):
		return conflict(api.Conflict, node.ref(), "a machine of that name is connected: "+out, node.meta.Name)
	case v == api.VerdictReady || v == api.VerdictAgentDown:
		return conflict(api.Unready, node.ref(), "a machine of that name is still taken to be alive, its verdict is %s: "+out, v, node.meta.Name)
	}
	return nil
}

// repeats reports whether this very request made the member before, and only
// its answer was lost: a retry must not use the token up twice.
func (t *txn) repeats(k *kind, req pki.JoinRequest) bool {
	o := t.peek(k.key("", req.Name))
	return o != nil && t.by.requestID != "" && o.meta.WriteID == t.by.requestID
}

// serveRenew answers POST /v1/renew: a node gets a new certificate for the one
// it shows. Servers have the CA's key and need nobody.
func (s *Server) serveRenew(w http.ResponseWriter, r *request) error {
	if s.cfg.Issuer == nil {
		return api.Errorf(api.Unready, "this server renews no certificates")
	}
	if r.by.Role != RoleNode {
		return api.Errorf(api.Denied, "only a node can renew its certificate here, by showing it")
	}
	req, err := decodeBody[pki.RenewRequest](w, r, maxJoin, r.by.check)
	if err != nil {
		return err
	}
	snap, err := s.latest(r)
	if err != nil {
		return err
	}
	o := snap.get(s.kinds["nodes"].key("", r.by.Name))
	if o == nil { // deleted since it was admitted
		return notFound(s.kinds["nodes"].ref("", r.by.Name))
	}
	typed, err := o.typed()
	if err != nil {
		return err
	}
	n := typed.(*api.Node)
	cert, err := s.cfg.Issuer.Issue([]byte(req.CSR), string(RoleNode), r.by.Name)
	if err != nil {
		return invalid(api.Ref{}, api.Errors{{Path: "csr", Message: "cannot be signed: " + err.Error()}})
	}
	answer(w, http.StatusOK, snap.revision, marshal(s.admission(cert, pki.JoinNode{Name: r.by.Name, Subnet: n.Effective.Subnet})))
	return nil
}
