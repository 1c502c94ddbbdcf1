package api

import (
	"fmt"
	"time"
)

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
