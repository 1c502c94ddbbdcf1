package apiserver

import (
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
	// GossipKey returns the key that members gossip with.
	GossipKey() []byte
}

const maxJoin = 32 << 10

// serveJoin answers POST /v1/join: who has a join token's secret gets a
// certificate for a node. It is the one call that is not authenticated before.
func (s *Server) serveJoin(w http.ResponseWriter, r *request) error {
	if s.cfg.Issuer == nil {
		return api.Errorf(api.Unready, "this server lets no machines in")
	}
	req, err := decodeBody[pki.JoinRequest](w, r, maxJoin)
	if err != nil {
		return err
	}
	var errs api.Errors
	errs.Add("name", api.CheckName(req.Name))
	if req.CSR == "" {
		errs.Addf("csr", "required")
	}
	if errs != nil {
		return invalid(api.Ref{}, errs)
	}
	var subnet string
	commit := func(t *txn) error { subnet, err = t.join(req); return err }
	// The request is named by its key: who repeats it gets a certificate that
	// only the holder of the key can use.
	by := caller{Identity: Identity{RoleNode, req.Name}, program: r.UserAgent(), requestID: "join-" + pki.Hash(req.CSR)}
	// Signed before anything is written: a request that cannot be signed uses up nothing.
	if _, err := s.dryRun(r.Context(), by, commit); err != nil {
		return err
	}
	cert, err := s.cfg.Issuer.Issue([]byte(req.CSR), string(RoleNode), req.Name)
	if err != nil {
		return invalid(api.Ref{}, api.Errors{{Path: "csr", Message: "cannot be signed: " + err.Error()}})
	}
	revision, err := s.commit(r.Context(), by, commit)
	if err != nil {
		return err
	}
	s.log.Info("node joined", "node", req.Name, "address", req.Address, "subnet", subnet, "token", req.ID)
	answer(w, http.StatusOK, revision, marshal(s.admission(cert, pki.JoinNode{Name: req.Name, Subnet: subnet})))
	return nil
}

// admission is what a member needs to know.
func (s *Server) admission(cert []byte, node pki.JoinNode) pki.JoinResponse {
	return pki.JoinResponse{
		Certificate: string(cert), CA: string(s.cfg.Issuer.CA()), GossipKey: s.cfg.Issuer.GossipKey(), Node: node,
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

// join uses the token and makes the node, in one transaction. A node that is
// there already keeps its subnet: its machine may have lost its key. One that
// lives is not given away: its name is taken.
func (t *txn) join(req pki.JoinRequest) (subnet string, err error) {
	tokens, nodes := t.s.kinds["tokens"], t.s.kinds["nodes"]
	var old *object
	var token api.Token
	if plausible(req.ID) {
		if old = t.read(tokens.key("", req.ID)); old != nil {
			if err := json.Unmarshal(old.body, &token); err != nil {
				return "", fmt.Errorf("decode %s: %w", old.ref(), err)
			}
		}
	}
	again := t.s.repeats(t, req)
	refused := func(format string, args ...any) error { return api.Errorf(api.Unauthenticated, format, args...) }
	switch match := pki.HashMatches(token.Spec.Hash, req.Secret); {
	case !match:
		return "", refused("the join token is not known to this cluster: it was revoked or mistyped; make a new one with: clusterd token create --role node")
	case token.Spec.Role != api.RoleNode:
		return "", refused("this is not a join token but one of role %s", token.Spec.Role)
	case expired(&token, t.now):
		return "", refused("the join token expired on %s: make a new one with: clusterd token create --role node", stamp(token.Spec.ExpiresAt))
	case token.Spec.MaxUses > 0 && token.Status.Uses >= token.Spec.MaxUses && !again:
		return "", refused("the join token is used up: it was good for %d; make a new one with: clusterd token create --role node", token.Spec.MaxUses)
	}
	node := t.read(nodes.key("", req.Name))
	if node == nil {
		in, err := openSpec(nodes, "", req.Name, marshal(api.Node{Meta: api.Meta{Name: req.Name, Labels: req.Labels}}))
		if err != nil {
			return "", err
		}
		if node, _, err = t.putSpec(in, precondition{}); err != nil {
			return "", err
		}
	} else if !again {
		if err := t.s.vacant(node); err != nil {
			return "", err
		}
	}
	var eff api.NodeSpec
	if err := json.Unmarshal(node.effective, &eff); err != nil {
		return "", fmt.Errorf("decode effective of %s: %w", node.ref(), err)
	}
	if again {
		return eff.Subnet, nil
	}
	used := old.with()
	used.status = marshal(api.TokenStatus{Uses: token.Status.Uses + 1, LastUsed: t.now})
	t.put(used)
	return eff.Subnet, nil
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

// repeats reports whether this very request made the node before, and only
// its answer was lost: a retry must not use the token up twice.
func (s *Server) repeats(t *txn, req pki.JoinRequest) bool {
	node := t.peek(s.kinds["nodes"].key("", req.Name))
	return node != nil && t.by.requestID != "" && node.meta.WriteID == t.by.requestID
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
	req, err := decodeBody[pki.RenewRequest](w, r, maxJoin)
	if err != nil {
		return err
	}
	snap, err := s.cache.latest(r.Context())
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
