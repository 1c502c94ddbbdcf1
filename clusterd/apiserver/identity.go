package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
	"github.com/clusterd/terraform-provider-clusterd/internal/wire"
)

// Role is what a caller is to the cluster.
type Role string

// The roles of callers.
const (
	RoleSystem Role = "system" // controllers and scheduler, in this process only
	RoleServer Role = "server" // a server's certificate
	RoleNode   Role = "node"   // a node's certificate
	RoleUser   Role = "user"   // a bearer token
)

// Identity is who asks. It prints as user:alice.
type Identity struct {
	Role Role
	Name string
}

func (i Identity) String() string {
	if i == (Identity{}) {
		return ""
	}
	return string(i.Role) + ":" + i.Name
}

type identityKey struct{}

// standing returns what a caller that was admitted may do by a snapshot, or why
// it is admitted no more.
type standing func(*snapshot) (api.Rights, error)

// identify returns who sent r, and what that stays certain by; nil needs no
// review. With an error it is who r says to be from. If always, what was known
// last decides where the store does not answer in time.
func (s *Server) identify(r *http.Request, always bool) (by caller, err error) {
	if id, ok := r.Context().Value(identityKey{}).(Identity); ok {
		by.Identity, by.still = id, s.belongs(id, nil)
		if id.Role == RoleUser { // whoever is in this process was let in by the machine
			by.rights = api.AllRights()
		}
		return by, s.admit(r.Context(), by.still)
	}
	if s.cfg.Peer != nil && r.TLS != nil {
		if role, name, ok := s.cfg.Peer(r.TLS); ok && (Role(role) == RoleNode || Role(role) == RoleServer) {
			by.Identity = Identity{Role(role), name}
			by.still = s.belongs(by.Identity, r.TLS)
			return by, s.admit(r.Context(), by.still)
		}
	}
	scheme, bearer, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return by, api.Errorf(api.Unauthenticated, "no token: send the header Authorization: Bearer ct_<id>_<secret>, or use a client certificate (the CLI reads CLUSTERD_TOKEN)")
	}
	user, err := pki.ParseUserToken(strings.TrimSpace(bearer))
	if err != nil {
		return by, api.Errorf(api.Unauthenticated, "%s", err)
	}
	by.Identity = Identity{RoleUser, user.ID}
	by.still = func(snap *snapshot) (api.Rights, error) { return s.holds(snap, user) }
	ctx := r.Context()
	if always {
		short, cancel := context.WithTimeout(ctx, alwaysTimeout)
		defer cancel()
		ctx = short
	}
	snap, err := s.cache.latest(ctx) // a revoked token is refused at once
	if last := s.cache.now.Load(); err != nil && always && last != nil {
		snap, err = last, nil
	}
	if err != nil {
		return by, err
	}
	by.rights, err = by.still(snap)
	return by, err
}

// admit turns away members that were deleted: their certificates outlive them,
// also when another machine has taken the name since.
func (s *Server) admit(ctx context.Context, still standing) error {
	if still == nil {
		return nil
	}
	if snap := s.cache.now.Load(); snap != nil {
		if _, err := still(snap); err == nil {
			return nil
		}
	}
	snap, err := s.cache.latest(ctx) // it may have joined at another server just now
	if err != nil {
		return err
	}
	_, err = still(snap)
	return err
}

// joinTakes is the longest between the signing of a certificate and the
// creation of its node, of which the certificate is the older.
const joinTakes = writeTimeout + 10*time.Second

// belongs says why the node or server that id claims to be, by the certificate
// that was shown, is none.
func (s *Server) belongs(id Identity, conn *tls.ConnectionState) standing {
	kinds := map[Role]string{RoleNode: "nodes", RoleServer: "servers"}
	plural, ok := kinds[id.Role]
	if !ok {
		return nil
	}
	return func(snap *snapshot) (api.Rights, error) {
		o := snap.get(s.kinds[plural].key("", id.Name))
		switch {
		case o == nil, conn != nil && len(conn.PeerCertificates) > 0 && pki.Issued(conn.PeerCertificates[0]).Before(o.meta.CreatedAt.Add(-joinTakes)):
			return nil, api.Errorf(api.Unauthenticated, "%s %s was deleted: join it again with a new token", id.Role, id.Name)
		case outlived(conn):
			// Who has renewed it is served on the next connection.
			return nil, api.Errorf(api.Unready, "the certificate of %s ended during this connection: connect anew with the renewed one", id)
		}
		return nil, nil
	}
}

// whileAllowed returns r with a context for what outlives a request's
// admission: it ends when the member is deleted, the certificate that was shown
// has ended, the token was revoked or has expired, or its roles give a no more.
// Its cause says then which (see whyEnded).
func (s *Server) whileAllowed(r *request, a ask) (open *request, stop func()) {
	r.stand()
	if r.by.still == nil {
		return r, func() {}
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	leave := s.streams.enter(&stream{r.by, a, cancel})
	held := *r
	held.Request = r.WithContext(ctx)
	return &held, func() { cancel(nil); leave() }
}

// whyEnded returns why the right to what is open with ctx has ended, and nil while it
// has not.
func whyEnded(ctx context.Context) error {
	if why, ok := errors.AsType[*api.Error](context.Cause(ctx)); ok {
		return why
	}
	return nil
}

// review says why by, who was allowed a, is so no more.
func (s *Server) review(by caller, a ask) (err error) {
	snap := s.cache.now.Load()
	if snap == nil {
		return nil
	}
	by.rights, err = by.still(snap)
	if err == nil && by.Role == RoleUser && a.kind != nil {
		err = allow(by, a)
	}
	return err
}

// outlived reports whether the certificate that was shown when conn began has
// ended since.
func outlived(conn *tls.ConnectionState) bool {
	return conn != nil && len(conn.PeerCertificates) > 0 && time.Now().After(conn.PeerCertificates[0].NotAfter)
}

// holds returns what the token that user shows is good for, or why it is not.
func (s *Server) holds(snap *snapshot, user pki.UserToken) (api.Rights, error) {
	t := s.token(snap, user.ID)
	// Compared even when there is no such token: the time taken tells nothing.
	match := pki.HashMatches(t.Spec.Hash, user.Secret)
	switch {
	case !match:
		return nil, api.Errorf(api.Unauthenticated, "the token is not valid: it was revoked, mistyped, or is not of this cluster")
	case expired(t, time.Now()):
		return nil, api.Errorf(api.Unauthenticated, "the token expired on %s: ask for a new one", t.Spec.ExpiresAt.UTC().Format(time.RFC3339))
	case t.Spec.Joins():
		return nil, api.Errorf(api.Unauthenticated, "this token is for machines to join with: it gives no access to the API")
	}
	return s.rightsOf(t.Spec, snap.get)
}

// token returns the token called id, or an empty one.
func (s *Server) token(snap *snapshot, id string) *api.Token {
	var t api.Token
	if o := snap.get(s.kinds["tokens"].key("", id)); o != nil {
		if wire.Unmarshal(o.body, &t) != nil {
			return &api.Token{}
		}
	}
	return &t
}

func expired(t *api.Token, now time.Time) bool {
	return !t.Spec.ExpiresAt.IsZero() && !now.Before(t.Spec.ExpiresAt)
}
