package api

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// Tokens let users in, and machines join.
var Tokens = &Kind[*Token]{
	Name: "Token", Plural: "tokens", Aliases: []string{"token"}, Scope: Cluster,
	Doc: "A bearer token of a user, or a join token of machines. Only a hash of its secret is kept.",
	Columns: []Column[*Token]{
		{Name: "ROLE", Of: func(t *Token) string { return strings.Join(t.Spec.Named(), ", ") }},
		{Name: "USES", Of: func(t *Token) string {
			if t.Spec.MaxUses == 0 {
				return fmt.Sprint(t.Status.Uses)
			}
			return fmt.Sprintf("%d/%d", t.Status.Uses, t.Spec.MaxUses)
		}},
		{Name: "EXPIRES", Of: func(t *Token) string {
			if t.Spec.ExpiresAt.IsZero() {
				return "never"
			}
			return t.Spec.ExpiresAt.UTC().Format(time.RFC3339)
		}},
		{Name: "AGE", Of: func(t *Token) string { return Age(t.Meta.CreatedAt) }},
		{Name: "FOR", Wide: true, Of: func(t *Token) string { return cmp.Or(t.Spec.Description, t.Spec.Name) }},
	},
}

// Token is a bearer token or a join token. Its name is the token's id.
type Token = Object[TokenSpec, TokenStatus]

// Roles of a token that are no Role: what they give is built in.
const (
	RoleAdmin  = "admin"  // a user who may do everything
	RoleNode   = "node"   // joins machines as nodes
	RoleServer = "server" // joins machines as servers: whoever has it learns all keys of the cluster
)

// TokenSpec says what a token is good for.
type TokenSpec struct {
	Role        string    `json:"role,omitempty" doc:"admin: a user who may do everything. node and server: machines join as that with it. Left out when there are roles." enum:"admin,node,server"`
	Roles       []string  `json:"roles,omitempty" doc:"Names of roles: a user who may do what they give, all together. One that does not exist gives nothing."`
	Hash        string    `json:"hash" doc:"SHA-256 of the secret, in hex: the server never sees the secret of a token it did not make."`
	Description string    `json:"description,omitempty" doc:"What the token is for."`
	ExpiresAt   time.Time `json:"expires_at,omitzero" doc:"Refused afterwards; never when unset."`
	Name        string    `json:"name,omitempty" doc:"Only the machine of this name may join with it."`
	MaxUses     int       `json:"max_uses,omitempty" doc:"How often machines may join with it; 0 is without limit."`
}

// Validate reports every violation.
func (s TokenSpec) Validate() error {
	var errs Errors
	switch {
	case s.Role == "" && len(s.Roles) == 0:
		errs.Addf("role", "required, or roles")
	case s.Role != "" && len(s.Roles) > 0:
		errs.Addf("roles", "a token of role %s has no others: leave one of the two out", s.Role)
	case s.Role != "" && !BuiltIn(s.Role):
		errs.Addf("role", "%q is unknown: want %s, %s or %s; other roles go into roles", s.Role, RoleAdmin, RoleNode, RoleServer)
	}
	for i, role := range s.Roles {
		errs.Add(fmt.Sprintf("roles[%d]", i), CheckName(role))
	}
	if s.Name != "" {
		if errs.Add("name", CheckName(s.Name)); !s.Joins() {
			errs.Addf("name", "is for join tokens, of role %s or %s", RoleNode, RoleServer)
		}
	}
	if len(s.Hash) != 64 {
		errs.Addf("hash", "want the SHA-256 of the secret as 64 hex digits")
	}
	if s.MaxUses < 0 {
		errs.Addf("max_uses", "must not be negative")
	}
	return errs.Err()
}

// Joins reports whether machines join with the token, and nobody logs in.
func (s TokenSpec) Joins() bool { return s.Role == RoleNode || s.Role == RoleServer }

// BuiltIn reports whether a role is one that is no Role.
func BuiltIn(role string) bool { return role == RoleAdmin || role == RoleNode || role == RoleServer }

// Named returns what the token's roles are called.
func (s TokenSpec) Named() []string {
	if s.Role != "" {
		return []string{s.Role}
	}
	return s.Roles
}

// WithDefaults returns s.
func (s TokenSpec) WithDefaults() TokenSpec { return s }

// TokenStatus is written by the API server.
type TokenStatus struct {
	Uses     int       `json:"uses" doc:"How often it was used to join."`
	LastUsed time.Time `json:"last_used,omitzero"`
}
