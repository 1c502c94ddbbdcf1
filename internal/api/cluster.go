package api

import (
	"fmt"
	"time"
)

// Namespaces are teams.
var Namespaces = Kind[NamespaceSpec, NamespaceStatus]{
	Name: "Namespace", Plural: "namespaces", Aliases: []string{"namespace", "ns"}, Scope: Cluster, TwoStep: true,
	Doc: "A team: the space its objects' names live in.",
	Columns: []Column[NamespaceSpec, NamespaceStatus]{
		{Name: "PHASE", Of: func(n *Namespace) string {
			if n.Meta.Deleting() {
				return "deleting"
			}
			return "active"
		}},
		{Name: "MESSAGE", Wide: true, Of: func(n *Namespace) string { return n.Status.Message }},
		{Name: "AGE", Of: func(n *Namespace) string { return Age(n.Meta.CreatedAt) }},
	},
}

// DefaultNamespace exists from the first start.
const DefaultNamespace = "default"

// Namespace is a team.
type Namespace = Object[NamespaceSpec, NamespaceStatus]

// NamespaceSpec is what a platform team grants.
type NamespaceSpec struct {
	Description string `json:"description,omitempty" doc:"Who and what the namespace is for."`
}

// Validate reports every violation.
func (s NamespaceSpec) Validate() error {
	if len(s.Description) > 1000 {
		return Errors{{"description", "longer than 1000 bytes"}}
	}
	return nil
}

// WithDefaults returns s.
func (s NamespaceSpec) WithDefaults() NamespaceSpec { return s }

// NamespaceStatus is written by the namespace loop.
type NamespaceStatus struct {
	Message  string   `json:"message,omitempty" doc:"What a deletion waits for."`
	Blockers []string `json:"blockers,omitempty" doc:"Objects a deletion waits for, at most 10."`
}

// Servers are the members of the control plane.
var Servers = Kind[ServerSpec, ServerStatus]{
	Name: "Server", Plural: "servers", Aliases: []string{"server"}, Scope: Cluster, Derived: true,
	Doc: "A member of the control plane.",
	Columns: []Column[ServerSpec, ServerStatus]{
		{Name: "ADDRESS", Of: func(s *Server) string { return s.Spec.Address }},
		{Name: "LEADER", Of: func(s *Server) string { return fmt.Sprint(s.Status.Leader) }},
		{Name: "VERSION", Of: func(s *Server) string { return s.Status.Version }},
		{Name: "AGE", Of: func(s *Server) string { return Age(s.Meta.CreatedAt) }},
	},
}

// Server is a member of the control plane.
type Server = Object[ServerSpec, ServerStatus]

// ServerSpec is written by the server itself.
type ServerSpec struct {
	Address string `json:"address" doc:"Host and port of its API."`
	Gossip  string `json:"gossip,omitempty" doc:"Host and port of its gossip."`
}

// Validate reports every violation.
func (s ServerSpec) Validate() error {
	if s.Address == "" {
		return Errors{{"address", "required"}}
	}
	return nil
}

// WithDefaults returns s.
func (s ServerSpec) WithDefaults() ServerSpec { return s }

// ServerStatus is written by the server itself.
type ServerStatus struct {
	Leader    bool      `json:"leader"`
	Version   string    `json:"version,omitempty"`
	StartedAt time.Time `json:"started_at,omitzero"`
}

// Images are loaded by hand, for machines without a registry.
var Images = Kind[ImageSpec, ImageStatus]{
	Name: "Image", Plural: "images", Aliases: []string{"image"}, Scope: Cluster, Derived: true,
	Doc: "A container image loaded by hand onto nodes.",
	Columns: []Column[ImageSpec, ImageStatus]{
		{Name: "REFERENCE", Of: func(i *Image) string { return i.Spec.Reference }},
		{Name: "DIGEST", Of: func(i *Image) string { return short(i.Spec.Digest) }},
		{Name: "NODES", Of: func(i *Image) string { return fmt.Sprint(len(i.Spec.Nodes)) }},
		{Name: "AGE", Of: func(i *Image) string { return Age(i.Meta.CreatedAt) }},
	},
}

// Image is an image loaded by hand. Its name is made from the reference.
type Image = Object[ImageSpec, ImageStatus]

// ImageSpec says what was loaded, and where.
type ImageSpec struct {
	Reference string   `json:"reference" doc:"Full reference, such as docker.io/library/nginx:1.27."`
	Digest    string   `json:"digest"`
	Size      int64    `json:"size,omitempty" doc:"Bytes."`
	Nodes     []string `json:"nodes,omitempty" doc:"Nodes that have it."`
}

// Validate reports every violation.
func (s ImageSpec) Validate() error {
	var errs Errors
	errs.Add("reference", checkImage(s.Reference))
	return errs.Err()
}

// WithDefaults returns s.
func (s ImageSpec) WithDefaults() ImageSpec { return s }

// ImageStatus is empty: an image is all spec.
type ImageStatus struct{}

func short(digest string) string { return digest[:min(len(digest), 19)] }

// EventRings hold what happened, one ring per subject.
var EventRings = Kind[EventsSpec, EventsStatus]{
	Name: "Event", Plural: "events", Aliases: []string{"event", "ev"}, Scope: Namespaced, Derived: true,
	Doc: "What happened to one object, newest last. Events of cluster-scoped objects live in namespace default.",
	Columns: []Column[EventsSpec, EventsStatus]{
		{Name: "SUBJECT", Of: func(e *Events) string { return e.Spec.Subject.String() }},
		{Name: "LAST", Of: func(e *Events) string { return Age(e.Spec.last().Last) }},
		{Name: "REASON", Of: func(e *Events) string { return e.Spec.last().Reason }},
		{Name: "MESSAGE", Of: func(e *Events) string { return e.Spec.last().Message }},
	},
}

// Events is the ring of one subject. Its name is <kind>-<name>.
type Events = Object[EventsSpec, EventsStatus]

// MaxEvents is how many entries a ring keeps.
const MaxEvents = 20

// EventsSpec is written by the API server, from what parts report.
type EventsSpec struct {
	Subject Ref     `json:"subject"`
	Entries []Event `json:"entries,omitempty"`
}

// Event is one thing that happened; the same again only counts.
type Event struct {
	Warning bool      `json:"warning,omitempty"`
	Reason  string    `json:"reason" doc:"One word: created, bound, killed, crash_loop, rolled_back, …"`
	Message string    `json:"message"`
	By      string    `json:"by,omitempty" doc:"The part that saw it."`
	Count   int       `json:"count,omitempty"`
	First   time.Time `json:"first,omitzero"`
	Last    time.Time `json:"last,omitzero"`
}

// EventReport is the body of POST /v1/events.
type EventReport struct {
	Subject Ref   `json:"subject"`
	Event   Event `json:"event"`
}

// Validate reports every violation.
func (s EventsSpec) Validate() error {
	if len(s.Entries) > MaxEvents {
		return Errors{{"entries", fmt.Sprintf("more than %d", MaxEvents)}}
	}
	return nil
}

// WithDefaults returns s.
func (s EventsSpec) WithDefaults() EventsSpec { return s }

func (s EventsSpec) last() Event {
	if len(s.Entries) == 0 {
		return Event{}
	}
	return s.Entries[len(s.Entries)-1]
}

// EventsStatus is empty: events are all spec.
type EventsStatus struct{}

// Tokens let users in, and machines join.
var Tokens = Kind[TokenSpec, TokenStatus]{
	Name: "Token", Plural: "tokens", Aliases: []string{"token"}, Scope: Cluster,
	Doc: "A bearer token of a user, or a join token of machines. Only a hash of its secret is kept.",
	Columns: []Column[TokenSpec, TokenStatus]{
		{Name: "ROLE", Of: func(t *Token) string { return t.Spec.Role }},
		{Name: "USES", Of: func(t *Token) string { return fmt.Sprint(t.Status.Uses) }},
		{Name: "EXPIRES", Of: func(t *Token) string {
			if t.Spec.ExpiresAt.IsZero() {
				return "never"
			}
			return t.Spec.ExpiresAt.UTC().Format(time.RFC3339)
		}},
		{Name: "AGE", Of: func(t *Token) string { return Age(t.Meta.CreatedAt) }},
	},
}

// Token is a bearer token or a join token. Its name is the token's id.
type Token = Object[TokenSpec, TokenStatus]

// Roles of a token.
const (
	RoleAdmin = "admin" // a user who may do everything
	RoleNode  = "node"  // joins machines as nodes
)

// TokenSpec says what a token is good for.
type TokenSpec struct {
	Role        string    `json:"role" doc:"admin: a user. node: machines join with it." enum:"admin,node"`
	Hash        string    `json:"hash" doc:"SHA-256 of the secret, in hex: the server never sees the secret of a token it did not make."`
	Description string    `json:"description,omitempty" doc:"What the token is for."`
	ExpiresAt   time.Time `json:"expires_at,omitzero" doc:"Refused afterwards; never when unset."`
	MaxUses     int       `json:"max_uses,omitempty" doc:"How often machines may join with it; 0 is without limit."`
}

// Validate reports every violation.
func (s TokenSpec) Validate() error {
	var errs Errors
	if s.Role != RoleAdmin && s.Role != RoleNode {
		errs.Addf("role", "%q is unknown: want %s or %s", s.Role, RoleAdmin, RoleNode)
	}
	if len(s.Hash) != 64 {
		errs.Addf("hash", "want the SHA-256 of the secret as 64 hex digits")
	}
	if s.MaxUses < 0 {
		errs.Addf("max_uses", "must not be negative")
	}
	return errs.Err()
}

// WithDefaults returns s.
func (s TokenSpec) WithDefaults() TokenSpec { return s }

// TokenStatus is written by the API server.
type TokenStatus struct {
	Uses     int       `json:"uses" doc:"How often it was used to join."`
	LastUsed time.Time `json:"last_used,omitzero"`
}
