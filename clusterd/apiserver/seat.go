package apiserver

import (
	"strconv"
	"sync"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// Bounds of what is at work at a time. Requests wait for the disk as much as for
// a processor, so there are many more seats than processors.
const (
	commonSeats, commonShare, commonLine = 128, 32, 256
	adminSeats, adminShare, adminLine    = 64, 64, 1024

	// listSeat is how many objects of a list take one more seat.
	listSeat = 250
)

// everything is what only admins may do.
var everything = api.Right{Namespace: api.Every, Kind: api.Every, Verb: api.Every}

// seat waits until r may be worked at. What keeps the cluster going is never
// kept waiting: its own loops, the leases and statuses of nodes, other servers.
// Admins have seats of their own, so that they can end whatever takes the rest.
func (s *Server) seat(r *request) error {
	lane := s.common
	switch id := r.by.Identity; {
	case id.Role == RoleSystem, id.Role == RoleServer, id.Role == RoleNode && r.routine:
		return nil
	case id.Role == RoleUser && r.by.rights.Give(everything):
		lane = s.admins
	}
	leave, err := lane.enter(r.Context(), r.by.Identity.String(), r.cost())
	if err == nil {
		r.rise = sync.OnceFunc(leave)
	}
	return err
}

// stand gives r's seat back, when what is left of it is to wait or to stream.
func (r *request) stand() {
	if r.rise != nil {
		r.rise()
	}
}

// cost is how many seats r takes. How much a list brings is only known
// afterwards, so it goes by those before it.
func (r *request) cost() int {
	if r.verb != "list" || r.URL.Query().Get("from") != "" {
		return 1
	}
	n := int(r.kind.listed.Load())
	if limit, err := strconv.Atoi(r.URL.Query().Get("limit")); err == nil && limit > 0 {
		n = min(n, limit)
	}
	return 1 + n/listSeat
}

// brought remembers how much a list brought: the most of late.
func (k *kind) brought(n int) {
	k.listed.Store(max(int64(n), k.listed.Load()*7/8))
}
