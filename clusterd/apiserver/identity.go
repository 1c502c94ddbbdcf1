package apiserver

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// Role is what a caller is to the cluster.
type Role string

// The roles of callers.
const (
	RoleSystem Role = "system" // controllers and scheduler, in this process only
	RoleServer Role = "server" // a server's certificate
	RoleNode   Role = "node"   // a node's certificate
	RoleUser   Role = "user"   // a bearer token of role admin
)

// Identity is who asks. It prints as user:alice.
type Identity struct {
	Role Role
	Name string
}

func (i Identity) String() string { return string(i.Role) + ":" + i.Name }

type identityKey struct{}

// identify returns who sent r.
func (s *Server) identify(r *http.Request) (Identity, error) {
	if id, ok := r.Context().Value(identityKey{}).(Identity); ok {
		return id, nil
	}
	if s.cfg.Peer != nil && r.TLS != nil {
		if role, name, ok := s.cfg.Peer(r.TLS); ok && (Role(role) == RoleNode || Role(role) == RoleServer) {
			return Identity{Role(role), name}, nil
		}
	}
	bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return Identity{}, api.Errorf(api.Unauthenticated, "no token: send the header Authorization: Bearer ct_<id>_<secret>, or use a client certificate (the CLI reads CLUSTERD_TOKEN)")
	}
	return s.bearer(r.Context(), strings.TrimSpace(bearer))
}

// admit turns away nodes that were deleted: their certificates outlive them,
// also when another machine has taken the name since.
func (s *Server) admit(ctx context.Context, id Identity, conn *tls.ConnectionState) error {
	if id.Role != RoleNode {
		return nil
	}
	if s.member(s.cache.now.Load(), id, conn) == nil {
		return nil
	}
	snap, err := s.cache.latest(ctx) // it may have joined at another server just now
	if err != nil {
		return err
	}
	return s.member(snap, id, conn)
}

// joinTakes is the longest between the signing of a certificate and the
// creation of its node, of which the certificate is the older.
const joinTakes = writeTimeout + 10*time.Second

// member says why the node that id claims to be is none.
func (s *Server) member(snap *snapshot, id Identity, conn *tls.ConnectionState) error {
	var o *object
	if snap != nil {
		o = snap.get(s.kinds["nodes"].key("", id.Name))
	}
	if o == nil || conn != nil && len(conn.PeerCertificates) > 0 && pki.Issued(conn.PeerCertificates[0]).Before(o.meta.CreatedAt.Add(-joinTakes)) {
		return api.Errorf(api.Unauthenticated, "node %s was deleted: join it again with a new token", id.Name)
	}
	return nil
}

// reviewEvery is how soon what a node has open notices that the node is gone.
const reviewEvery = 5 * time.Second

// whileMember returns a context for what outlives a request's admission: it
// ends when the node is deleted, or the certificate that was shown has ended.
func (s *Server) whileMember(r *request) (ctx context.Context, stop func()) {
	if r.by.Role != RoleNode {
		return r.Context(), func() {}
	}
	ctx, cancel := context.WithCancel(r.Context())
	var timer *time.Timer
	var mu sync.Mutex // timer is set before it is read
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(reviewEvery, func() {
		mu.Lock()
		defer mu.Unlock()
		snap := s.cache.now.Load()
		switch {
		case ctx.Err() != nil:
		case outlived(r.TLS), snap != nil && s.member(snap, r.by.Identity, r.TLS) != nil:
			cancel()
		default:
			timer.Reset(reviewEvery)
		}
	})
	return ctx, func() { cancel(); timer.Stop() }
}

// outlived reports whether the certificate that was shown when conn began has
// ended since.
func outlived(conn *tls.ConnectionState) bool {
	return conn != nil && len(conn.PeerCertificates) > 0 && time.Now().After(conn.PeerCertificates[0].NotAfter)
}

// bearer returns the user of a token ct_<id>_<secret>.
func (s *Server) bearer(ctx context.Context, token string) (Identity, error) {
	user, err := pki.ParseUserToken(token)
	if err != nil {
		return Identity{}, api.Errorf(api.Unauthenticated, "%s", err)
	}
	snap, err := s.cache.latest(ctx) // a revoked token is refused at once
	if err != nil {
		return Identity{}, err
	}
	t := s.token(snap, user.ID)
	// Compared even when there is no such token: the time taken tells nothing.
	match := pki.HashMatches(t.Spec.Hash, user.Secret)
	switch {
	case !match:
		return Identity{}, api.Errorf(api.Unauthenticated, "the token is not valid: it was revoked, or is not of this cluster")
	case expired(t, time.Now()):
		return Identity{}, api.Errorf(api.Unauthenticated, "the token expired on %s: ask for a new one", t.Spec.ExpiresAt.UTC().Format(time.RFC3339))
	case t.Spec.Joins():
		return Identity{}, api.Errorf(api.Unauthenticated, "this token is for machines to join with: it gives no access to the API")
	}
	return Identity{RoleUser, user.ID}, nil
}

// token returns the token called id, or an empty one.
func (s *Server) token(snap *snapshot, id string) *api.Token {
	var t api.Token
	if o := snap.get(s.kinds["tokens"].key("", id)); o != nil {
		if json.Unmarshal(o.body, &t) != nil {
			return &api.Token{}
		}
	}
	return &t
}

func expired(t *api.Token, now time.Time) bool {
	return !t.Spec.ExpiresAt.IsZero() && !now.Before(t.Spec.ExpiresAt)
}
