package api

import (
	"fmt"
	"net"
	"strconv"
	"time"
)

// Servers are the members of the control plane.
var Servers = &Kind[*Server]{
	Name: "Server", Plural: "servers", Aliases: []string{"server"}, Scope: Cluster, Derived: true,
	Doc: "A member of the control plane.",
	Columns: []Column[*Server]{
		{Name: "ADDRESS", Of: func(s *Server) string { return s.Spec.Address }},
		{Name: "ROLE", Of: func(s *Server) string { return string(s.Status.Role) }},
		{Name: "STORE", Of: func(s *Server) string {
			if s.Spec.Peer == "" {
				return "-" // it has none of its own
			}
			return fmt.Sprintf("%d%%", s.Status.StoreUsed*10)
		}},
		{Name: "PEER", Wide: true, Of: func(s *Server) string { return s.Spec.Peer }},
		{Name: "VERSION", Of: func(s *Server) string { return s.Status.Version }},
		{Name: "LEVEL", Wide: true, Of: func(s *Server) string { return strconv.Itoa(max(s.Status.Level, 1)) }},
		{Name: "AGE", Of: func(s *Server) string { return Age(s.Meta.CreatedAt) }},
		{Name: "MESSAGE", Wide: true, Of: func(s *Server) string { return s.Status.Message }},
	},
}

// Server is a member of the control plane.
type Server = Object[ServerSpec, ServerStatus]

// ServerSpec is written by the server itself.
type ServerSpec struct {
	Address string `json:"address" doc:"Host and port of its API."`
	Gossip  string `json:"gossip,omitempty" doc:"Host and port of its gossip."`
	Peer    string `json:"peer,omitempty" doc:"Host and port where the other servers reach its store; unset if an etcd of the operator's has it."`
}

// Validate reports every violation.
func (s ServerSpec) Validate() error {
	var errs Errors
	if s.Address == "" {
		errs.Addf("address", "required")
	}
	for path, a := range map[string]string{"address": s.Address, "gossip": s.Gossip, "peer": s.Peer} {
		if _, _, err := net.SplitHostPort(a); a != "" && err != nil {
			errs.Addf(path, "%q: want host:port", a)
		}
	}
	return errs.Err()
}

// WithDefaults returns s.
func (s ServerSpec) WithDefaults() ServerSpec { return s }

// ServerRole is what a server is to the store.
type ServerRole string

// The roles of a server.
const (
	ServerJoining ServerRole = "joining" // was let in, and has not served yet
	ServerLeader  ServerRole = "leader"  // runs scheduler and controllers
	ServerVoter   ServerRole = "voter"   // counts for a majority
	ServerLearner ServerRole = "learner" // joins: has no vote yet
	ServerStandby ServerRole = "standby" // may lead; the store is an etcd of the operator's
	ServerDead    ServerRole = "dead"    // the others miss it
)

// ServerStatus is written by the server itself; that it is dead, by the leader,
// that it joins, by who let it in.
type ServerStatus struct {
	Role      ServerRole `json:"role,omitempty" doc:"What it is to the store." enum:"joining,leader,voter,learner,standby,dead"`
	Message   string     `json:"message,omitempty" doc:"Why its role is none that counts for a majority."`
	Version   string     `json:"version,omitempty" doc:"What it runs."`
	StartedAt time.Time  `json:"started_at,omitzero" doc:"When it was started."`
	StoreUsed int        `json:"store_used,omitempty" doc:"How full its store is, in tenths; from 9 on only deletes and statuses are taken."`
	Level     int        `json:"level,omitempty" doc:"Up to which level of the cluster its version knows what servers write; the cluster is at the level that all of them know."`
	Keys      KeyIDs     `json:"keys,omitzero" doc:"The keys it has of those that members share."`
}
