package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/apiserver/internal/store"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// The members of the store follow the Server objects: joining writes one, and
// deleting one takes the member out. The leader gives those their vote that have
// caught up, and removes those whose object is gone; the store itself refuses
// what would leave no majority.

// joinServer uses the token and makes the Server. Its name may be that of a
// server which is gone; servers that are dead make room.
func (t *txn) joinServer(req pki.JoinRequest) (pki.JoinNode, error) {
	var none pki.JoinNode
	servers := t.s.kinds["servers"]
	again := t.repeats(servers, req)
	use, err := t.useToken(req, again)
	if err != nil || again {
		return none, err
	}
	if err := t.checkJoinLevel(req); err != nil {
		return none, err
	}
	if err := t.keepsStore(req); err != nil {
		return none, err
	}
	var errs api.Errors
	want := map[string]string{"address": req.Address, "gossip": req.Gossip, "peer": req.Peer}
	if t.s.cfg.External != nil {
		delete(want, "peer")
	}
	for path, a := range want {
		if host, _, err := net.SplitHostPort(a); err != nil || host == "" || net.ParseIP(host).IsUnspecified() {
			errs.Addf(path, "%q: want host:port by which the other servers reach it", a)
		}
	}
	if errs != nil {
		return none, invalid(servers.ref("", req.Name), errs)
	}
	for _, o := range t.servers() {
		var spec api.ServerSpec
		if err := json.Unmarshal(o.spec, &spec); err != nil {
			return none, fmt.Errorf("decode %s: %w", o.ref(), err)
		}
		switch {
		case t.s.dead(o):
			t.read(o.key)
			t.remove(o.key)
			if err := t.noteRemoval(o.meta.Name); err != nil {
				return none, err
			}
			t.s.log.Warn("a dead server makes room for the one that joins", "server", o.meta.Name, "joins", req.Name)
		case o.meta.Name == req.Name:
			return none, conflict(api.Unready, o.ref(), "a server of that name is still taken to be alive: if it is this machine, try again in a few seconds; to replace it, delete it first with: clusterd delete server %s; else give this machine another --name", req.Name)
		case spec.Peer == req.Peer && req.Peer != "":
			return none, conflict(api.Conflict, o.ref(), "has the peer address %s, too: each server needs its own", req.Peer)
		}
	}
	in, err := openSpec(servers, "", req.Name, marshal(api.Server{
		Meta: api.Meta{Name: req.Name}, Spec: api.ServerSpec{Address: req.Address, Gossip: req.Gossip, Peer: req.Peer},
	}))
	if err != nil {
		return none, err
	}
	made, _, err := t.putSpec(in, precondition{})
	if err != nil {
		return none, err
	}
	let := made.with()
	let.status = marshal(api.ServerStatus{Role: api.ServerJoining, Level: req.Level, Message: "was let in, and has not served yet; should it never, its log says why, and this takes it out: clusterd delete server " + req.Name})
	t.put(let)
	t.unclaim(removedKey(req.Name))
	use()
	return none, nil
}

func (t *txn) servers() (all []*object) {
	t.snap.each(t.s.kinds["servers"].prefix(""), "", func(o *object) bool { all = append(all, o); return true })
	return all
}

func (s *Server) membership() store.Membership {
	m, _ := s.store.(store.Membership)
	return m
}

// dead reports whether the other servers miss one.
func (s *Server) dead(o *object) bool {
	return s.cfg.Dead != nil && s.cfg.Dead(o.meta.Name, o.meta.CreatedAt)
}

// Bounds of how long a server that joins waits for the members to settle.
const (
	welcomeWait  = 12 * time.Second
	welcomeRetry = 300 * time.Millisecond
)

// welcome makes room in the store for a server that joins, and tells it what
// it needs to start.
func (s *Server) welcome(ctx context.Context, req pki.JoinRequest) (*pki.JoinServer, error) {
	ctx, cancel := context.WithTimeout(ctx, welcomeWait)
	defer cancel()
	out := &pki.JoinServer{}
	if m := s.membership(); m != nil {
		var err error
		if out.Members, err = s.makeRoom(ctx, m, req); err != nil {
			return nil, err
		}
	}
	snap, err := s.cache.latest(ctx)
	if err != nil {
		return nil, err
	}
	set, err := s.openKeys(snap.get(keysKey))
	if err != nil {
		return nil, err
	}
	out.Keys = set.Encode()
	return out, nil
}

// makeRoom adds the server to the members of the store, and returns them.
func (s *Server) makeRoom(ctx context.Context, m store.Membership, req pki.JoinRequest) (map[string]string, error) {
	for said := ""; ; {
		err := forgetFormer(ctx, m, req.Peer)
		if err == nil {
			err = m.AddLearner(ctx, req.Peer)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, store.ErrUnsettled) {
			return nil, err
		}
		if said != err.Error() {
			said = err.Error()
			s.log.Info("a server waits to join", "server", req.Name, "reason", err)
		}
		if pause(ctx, welcomeRetry); ctx.Err() != nil {
			return nil, api.Errorf(api.Unready, "%s: %s", s.unsettled(ctx, m), err)
		}
	}
	members, err := m.Members(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, member := range members {
		switch {
		case member.Address == req.Peer:
			out[req.Name] = member.Address
		case member.Name != "":
			out[member.Name] = member.Address
		}
	}
	return out, nil
}

// unsettled says why a server cannot join now.
func (s *Server) unsettled(ctx context.Context, m store.Membership) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	members, err := m.Members(ctx)
	if err != nil {
		return "the members of the store cannot be told"
	}
	peers := s.peers(s.cache.now.Load()) // the store has no name of who never started
	for _, member := range members {
		switch name := peers[member.Address]; {
		case !member.Learner || name == "":
		case member.Name == "":
			return fmt.Sprintf("server %s joins at the moment, and they do so one by one; if it never comes to serve: clusterd delete server %s", name, name)
		default:
			return fmt.Sprintf("server %s joins at the moment, and they do so one by one", name)
		}
	}
	return "the members of the store cannot change yet: one cannot be reached"
}

// forgetFormer removes the member that a server was in a former life, at the
// address of one that joins and so has nothing of it. The leader would keep it,
// for its address is registered again.
func forgetFormer(ctx context.Context, m store.Membership, address string) error {
	members, err := m.Members(ctx)
	if err != nil {
		return err
	}
	for _, member := range members {
		if former := member.Name != ""; former && member.Address == address {
			return m.Remove(ctx, member.ID)
		}
	}
	return nil
}

// membersPlan is what to change about the members of the store.
type membersPlan struct {
	promote, remove []store.Member
	yield           bool // this server was deleted: another one takes it out
}

func (p membersPlan) String() string {
	var b strings.Builder
	for _, m := range p.promote {
		fmt.Fprintf(&b, "~ %s learner -> voter\n", m.Address)
	}
	for _, m := range p.remove {
		fmt.Fprintf(&b, "- %s\n", m.Address)
	}
	if p.yield {
		b.WriteString("yield\n")
	}
	return b.String()
}

// planMembers says which members get their vote, and which have to go: those at
// whose address no server is registered. A leader that has to go itself leaves
// that to the next one.
func planMembers(members []store.Member, peers map[string]string) (p membersPlan) {
	if len(peers) == 0 { // the founder has not registered yet
		return p
	}
	for _, m := range members {
		switch {
		case peers[m.Address] == "" && m.Self:
			p.yield = true
		case peers[m.Address] == "":
			p.remove = append(p.remove, m)
		case m.Learner && m.Name != "":
			p.promote = append(p.promote, m)
		}
	}
	return p
}

// tendEvery is how often the leader looks after the members.
const tendEvery = 250 * time.Millisecond

// tendMembers keeps the members of the store in step with the servers, while
// this one leads.
func (s *Server) tendMembers(ctx context.Context) {
	m := s.membership()
	if m == nil {
		return
	}
	quiet := map[string]bool{} // said before
	for ctx.Err() == nil {
		pause(ctx, tendEvery)
		if !s.Leads() {
			continue
		}
		if err := s.tendOnce(ctx, m); err != nil && ctx.Err() == nil && !quiet[err.Error()] {
			quiet[err.Error()] = true
			s.log.Warn("the members of the store", "error", err)
		} else if err == nil {
			clear(quiet)
		}
	}
}

func (s *Server) tendOnce(ctx context.Context, m store.Membership) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	members, err := m.Members(ctx)
	if err != nil {
		return err
	}
	// Only what is certainly so may take a member out.
	snap, err := s.cache.latest(ctx)
	if err != nil {
		return err
	}
	plan := planMembers(members, s.peers(snap))
	if plan.yield {
		return m.Yield(ctx)
	}
	for _, member := range plan.remove {
		if err := m.Remove(ctx, member.ID); err != nil {
			return err
		}
		s.log.Info("a server is out of the store", "peer", member.Address, "name", member.Name)
	}
	for _, member := range plan.promote {
		if err := m.Promote(ctx, member.ID); err != nil {
			return err
		}
		s.log.Info("a server has a vote", "name", member.Name, "peer", member.Address)
	}
	return nil
}

// peers are the names of the servers by the address of their member of the store.
func (s *Server) peers(snap *snapshot) map[string]string {
	out := map[string]string{}
	snap.each(s.kinds["servers"].prefix(""), "", func(o *object) bool {
		var spec api.ServerSpec
		if json.Unmarshal(o.spec, &spec) == nil {
			out[spec.Peer] = o.meta.Name
		}
		return true
	})
	return out
}

// Role is what this server is to the store.
func (s *Server) Role(ctx context.Context) (api.ServerRole, error) {
	m := s.membership()
	switch {
	case m != nil:
	case s.cfg.External != nil && !s.Leads():
		return api.ServerStandby, nil
	default:
		return api.ServerLeader, nil
	}
	members, err := m.Members(ctx)
	if err != nil {
		return "", err
	}
	for _, member := range members {
		switch {
		case !member.Self:
		case member.Leader:
			return api.ServerLeader, nil
		case member.Learner:
			return api.ServerLearner, nil
		}
	}
	return api.ServerVoter, nil
}

// Yield hands leadership to another server, where there is one: who stops on
// purpose leaves no gap.
func (s *Server) Yield(ctx context.Context) error {
	if st, ok := s.store.(interface{ Yield(context.Context) error }); ok {
		return st.Yield(ctx)
	}
	return nil
}

// checkServerGoes demands that a majority of the servers is left.
func (t *txn) checkServerGoes(old *object) error {
	if t.s.cfg.External != nil {
		return t.checkStopped(old)
	}
	if t.s.membership() == nil {
		return nil
	}
	all, alive := t.servers(), 0
	for _, o := range all {
		t.read(o.key) // two that are deleted at once count each other
		if o.key != old.key && !t.s.dead(o) {
			alive++
		}
	}
	left := len(all) - 1
	if left == 0 {
		return conflict(api.Conflict, old.ref(), "is the only server: it cannot go")
	}
	if alive <= left/2 {
		return conflict(api.Conflict, old.ref(), "cannot go: %d of the %d servers that are left would be alive, and a majority of them must; let another one join first, or bring a dead one back", alive, left)
	}
	return nil
}

// forgetServers removes every Server: those who are left register anew, also if
// they had been removed.
func (s *Server) forgetServers(ctx context.Context) error {
	var t store.Txn
	for _, prefix := range []string{s.kinds["servers"].prefix(""), removedPrefix} {
		page, err := s.store.List(ctx, store.Range{Prefix: prefix})
		if err != nil {
			return err
		}
		for _, e := range page.Entries {
			t.Then = append(t.Then, store.Delete(e.Key))
		}
	}
	if len(t.Then) == 0 {
		return nil
	}
	_, err := s.store.Commit(ctx, t)
	return err
}
