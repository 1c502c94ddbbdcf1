package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/clusterd/keys"
	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// Keys that members share are changed for others in steps, and each step waits
// until all members are ready for it: they say in their statuses which keys
// they have, and ask for others when servers have others.
//
//	gossip       understand the new ─► speak it ─► forget the old   by itself
//	authorities  sign with the new ─► trust no other                when told to

// member is a server or node that has keys.
type member struct {
	name string // as people write it
	has  api.KeyIDs
	deaf string // why it cannot be told of others; "" it can

	// since when a member of a store of several has run: what it trusts of the
	// others' stores it has read then.
	since time.Time
}

// keysPlan is what a rotation does next.
type keysPlan struct {
	next  *keys.Set // nil: nothing is under way
	does  string
	waits []string // whom it waits for; none: it may
}

func (p keysPlan) String() string {
	if p.next == nil {
		return ""
	}
	return p.does + "\n" + strings.Join(p.waits, "\n")
}

// planGossip says what is next of a rotation of the keys to gossip with.
func planGossip(set *keys.Set, members []member) (p keysPlan) {
	switch last := pki.KeyIDs(set.Gossip[len(set.Gossip)-1:]); {
	case set.Fresh != nil:
		fresh := pki.KeyIDs([][]byte{set.Fresh})
		p.next, p.does = set.Speak(), "speak the new key to gossip with, "+fresh
		p.wait(members, func(has []string) bool { return slices.Contains(has, fresh) }, gossipOf)
	case len(set.Gossip) > 1:
		p.next, p.does = set.Quieten(), "forget the old keys to gossip with: "+last+" is spoken"
		p.wait(members, func(has []string) bool { return has[len(has)-1] == last }, gossipOf)
	}
	return p
}

// planAuthorities says what is next once a new authority signs.
func planAuthorities(set *keys.Set, members []member) (p keysPlan) {
	ca, err := pki.OpenCA(set.CA)
	if err != nil || len(set.CA) == 1 {
		return p
	}
	newest, _, _ := strings.Cut(pki.AuthorityIDs(ca.PEM()), ",")
	p.next, p.does = set.ForgetAuthorities(), "trust the authority "+newest+" alone, with clusterd keys rotate authorities --forget"
	p.wait(members, func(has []string) bool { return has[0] == newest }, authoritiesOf)
	for _, m := range members {
		if !m.since.IsZero() && m.since.Before(ca.Made()) {
			p.waits = append(p.waits, m.name+" has run since before that authority, and trusts others' stores by the ones of then: restart it, one server at a time")
		}
	}
	return p
}

func gossipOf(ids api.KeyIDs) string      { return ids.Gossip }
func authoritiesOf(ids api.KeyIDs) string { return ids.Authorities }

func (p *keysPlan) wait(members []member, ready func([]string) bool, which func(api.KeyIDs) string) {
	for _, m := range members {
		switch has := which(m.has); {
		case has == "":
			p.waits = append(p.waits, m.name+" does not say which keys it has: update it")
		case ready(strings.Split(has, ",")):
		case m.deaf != "":
			p.waits = append(p.waits, m.name+" is "+m.deaf)
		default:
			p.waits = append(p.waits, m.name+" has not taken over the new keys yet")
		}
	}
}

// members are all that have keys and are not gone for good: a node that is dead
// asks for the keys of the moment when it is back.
func (s *Server) keyMembers(snap *snapshot) (all []member, err error) {
	snap.each(s.kinds["servers"].prefix(""), "", func(o *object) bool {
		var st api.ServerStatus
		if len(o.status) > 0 { // it has said something
			err = json.Unmarshal(o.status, &st)
		}
		if err == nil && st.Role != api.ServerDead {
			all = append(all, member{name: "server " + o.meta.Name, has: st.Keys, since: st.StartedAt})
		}
		return err == nil
	})
	if err != nil {
		return nil, fmt.Errorf("decode a server: %w", err)
	}
	if len(all) < 2 || s.membership() == nil { // there are no others' stores
		for i := range all {
			all[i].since = time.Time{}
		}
	}
	snap.each(s.kinds["nodes"].prefix(""), "", func(o *object) bool {
		st := &o.node.Status
		m := member{name: "node " + o.meta.Name, has: st.Keys}
		switch v := st.Health.Verdict; v {
		case api.VerdictDead, api.VerdictLeft, "":
			return true
		case api.VerdictAgentDown:
			m.deaf = "without its agent, which would take over the new keys"
		}
		all = append(all, m)
		return true
	})
	return all, nil
}

const (
	keysEvery = time.Second
	// keysSettle is how long all must have been ready before the next step: a
	// member says that it has a key a moment before it uses it.
	keysSettle = 5 * time.Second
)

// tendKeys brings a rotation of the keys to gossip with to its end, while this
// server leads.
func (s *Server) tendKeys(ctx context.Context) {
	var calm time.Time // since when all are ready
	doing, said := "", ""
	for ctx.Err() == nil {
		pause(ctx, keysEvery)
		var plan keysPlan
		if s.Leads() {
			var err error
			if plan, err = s.keysPlanned(planGossip); err != nil {
				s.log.Warn("the rotation of keys", "error", err)
				continue
			}
		}
		if plan.next == nil || len(plan.waits) > 0 || plan.does != doing {
			calm, doing = time.Now(), plan.does
		}
		if waits := strings.Join(plan.waits, "; "); waits != said && waits != "" {
			s.log.Info("the rotation of keys waits", "next", plan.does, "for", waits)
			said = waits
		}
		if plan.next == nil || time.Since(calm) < keysSettle {
			continue
		}
		if err := s.keysStep(ctx, plan.does); err != nil && ctx.Err() == nil {
			s.log.Warn("the rotation of keys", "error", err)
		}
		calm = time.Now()
	}
}

// keysPlanned looks at the keys and members as they are.
func (s *Server) keysPlanned(plan func(*keys.Set, []member) keysPlan) (p keysPlan, err error) {
	snap := s.cache.now.Load()
	if snap == nil {
		return p, nil
	}
	set, err := s.openKeys(snap.get(keysKey))
	if err != nil {
		return p, err
	}
	members, err := s.keyMembers(snap)
	if err != nil {
		return p, err
	}
	return plan(set, members), nil
}

// keysStep takes the step that was planned, if it is still the next.
func (s *Server) keysStep(ctx context.Context, does string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	by := caller{Identity: Identity{Role: RoleSystem, Name: "keys"}}
	_, err := s.changeKeys(ctx, by, func(snap *snapshot, set *keys.Set) (*keys.Set, error) {
		members, err := s.keyMembers(snap)
		if err != nil {
			return nil, err
		}
		p := planGossip(set, members)
		if p.next == nil || p.does != does || len(p.waits) > 0 {
			return nil, fmt.Errorf("%s: that has changed meanwhile", does)
		}
		return p.next, nil
	})
	if err == nil {
		s.log.Info("the rotation of keys goes on", "did", does)
	}
	return err
}

// serveKeys answers GET /v1/keys: which there are, and what a rotation waits for.
func (s *Server) serveKeys(w http.ResponseWriter, r *request) error {
	if err := allow(r.by, ask{verb: api.VerbRotate, kind: s.kinds["servers"]}); err != nil {
		return err
	}
	return s.answerKeys(w, r, api.Keys{})
}

// answerKeys adds to out what keys there are, and sends it.
func (s *Server) answerKeys(w http.ResponseWriter, r *request, out api.Keys) error {
	snap, err := s.latest(r)
	if err != nil {
		return err
	}
	set, err := s.openKeys(snap.get(keysKey))
	if err != nil {
		return err
	}
	members, err := s.keyMembers(snap)
	if err != nil {
		return err
	}
	ca, err := pki.OpenCA(set.CA)
	if err != nil {
		return err
	}
	out.KeyIDs = api.KeyIDs{Authorities: pki.AuthorityIDs(ca.PEM()), Gossip: pki.KeyIDs(set.GossipKeys())}
	out.Secrets = append(set.Secrets.Older(), set.Secrets.Current())
	p := planGossip(set, members)
	if p.next == nil {
		p = planAuthorities(set, members)
	}
	out.Next, out.Waits = p.does, p.waits
	answer(w, http.StatusOK, snap.revision, marshal(out))
	return nil
}

// serveRotate answers POST /v1/keys/{what}. With ?forget=true it removes older
// keys that nothing needs: of secrets once all are sealed anew, of authorities
// instead of making another.
func (s *Server) serveRotate(w http.ResponseWriter, r *request) error {
	if err := allow(r.by, ask{verb: api.VerbRotate, kind: s.kinds["servers"]}); err != nil {
		return err
	}
	var out api.Keys
	var err error
	switch what, forget := r.PathValue("what"), r.flag("forget"); {
	case what == api.KeysSecrets:
		out, err = s.rotateSecrets(r, forget)
	case what == api.KeysGossip && forget:
		err = invalid(api.Ref{}, api.Errors{{Path: "forget", Message: "the old key to gossip with is forgotten by itself, when nobody speaks it any more"}})
	case what == api.KeysGossip:
		err = s.renewKeys(r, func(_ *snapshot, set *keys.Set) (*keys.Set, error) { return set.RenewGossip() })
	case what == api.KeysAuthorities && forget:
		err = s.renewKeys(r, s.forgetAuthorities)
	case what == api.KeysAuthorities:
		err = s.renewKeys(r, func(_ *snapshot, set *keys.Set) (*keys.Set, error) { return set.RenewAuthority(s.cfg.Name) })
	default:
		err = invalid(api.Ref{}, api.Errors{{Path: "what", Message: fmt.Sprintf("%q has no keys: want %s, %s or %s", what, api.KeysGossip, api.KeysAuthorities, api.KeysSecrets)}})
	}
	if err != nil {
		return err
	}
	s.log.Info("keys were rotated", "what", r.PathValue("what"), "forget", r.flag("forget"), "by", r.by.String())
	return s.answerKeys(w, r, out)
}

// renewKeys changes the keys of members; what change says against it is a conflict.
func (s *Server) renewKeys(r *request, change func(*snapshot, *keys.Set) (*keys.Set, error)) error {
	var against error
	_, err := s.changeKeys(r.Context(), r.by, func(snap *snapshot, set *keys.Set) (next *keys.Set, err error) {
		next, against = change(snap, set)
		return next, against
	})
	if against != nil {
		return api.Errorf(api.Conflict, "%s", against)
	}
	return err
}

// forgetAuthorities trusts the newest authority alone, once all have a
// certificate of it: others would be locked out.
func (s *Server) forgetAuthorities(snap *snapshot, set *keys.Set) (*keys.Set, error) {
	members, err := s.keyMembers(snap)
	if err != nil {
		return nil, err
	}
	p := planAuthorities(set, members)
	switch {
	case p.next == nil:
		return nil, errors.New("there is one authority only: make another first, with clusterd keys rotate authorities")
	case len(p.waits) > 0:
		return nil, fmt.Errorf("these would be locked out: %s", strings.Join(p.waits, "; "))
	}
	return p.next, nil
}

// rotateSecrets has a new key seal from now on, and seals everything anew with
// it. With forget older keys that nothing needs are removed.
func (s *Server) rotateSecrets(r *request, forget bool) (out api.Keys, err error) {
	if _, err = s.changeKeys(r.Context(), r.by, func(_ *snapshot, next *keys.Set) (*keys.Set, error) {
		next.Secrets = next.Secrets.Add()
		return next, nil
	}); err != nil {
		return out, err
	}
	snap, err := s.latest(r)
	if err != nil {
		return out, err
	}
	for part := range slices.Chunk(sealedKeys(snap), resealed) {
		n := 0
		if _, err := s.commit(r.Context(), r.by, func(t *txn) (err error) {
			n, err = t.reseal(part)
			return err
		}); err != nil {
			return out, err
		}
		out.Sealed += n
	}
	if !forget {
		return out, nil
	}
	if _, err = s.latest(r); err != nil { // or what was sealed anew just now would not count
		return out, err
	}
	_, err = s.changeKeys(r.Context(), r.by, func(snap *snapshot, next *keys.Set) (*keys.Set, error) {
		needed := map[string]bool{}
		for _, key := range sealedKeys(snap) {
			needed[keys.KeyOf(snap.get(key).value)] = true
		}
		next.Secrets, out.Removed = next.Secrets.Forget(func(id string) bool { return needed[id] })
		return next, nil
	})
	return out, err
}

// sealedKeys are the keys of the store with sealed values.
func sealedKeys(snap *snapshot) (keys []string) {
	snap.each(sealedPrefix, "", func(o *object) bool { keys = append(keys, o.key); return true })
	return keys
}

// reseal stages what other keys than the current one sealed, sealed with that.
func (t *txn) reseal(stale []string) (n int, err error) {
	set, err := t.keys()
	if err != nil {
		return 0, err
	}
	for _, key := range stale {
		o := t.read(key)
		if o == nil || keys.KeyOf(o.value) == set.Secrets.Current() {
			continue
		}
		next, err := set.Secrets.Reseal(strings.TrimPrefix(key, sealedPrefix), o.value)
		if err != nil {
			return 0, err
		}
		t.set(key, next)
		n++
	}
	return n, nil
}
