package keys

import (
	"errors"
	"slices"

	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// GossipKeys are the keys that members gossip with: they speak the last, and
// understand all.
func (s *Set) GossipKeys() [][]byte {
	if s.Fresh == nil {
		return s.Gossip
	}
	return append([][]byte{s.Fresh}, s.Gossip...)
}

// RenewGossip returns the set with a new key to gossip with, that nobody speaks
// yet: who does not know it would hear nothing. Speak and Quieten follow, each
// when all members are ready for it.
func (s *Set) RenewGossip() (*Set, error) {
	if s.Fresh != nil || len(s.Gossip) > 1 {
		return nil, errors.New("the keys to gossip with are being rotated already: clusterd keys show says what that waits for")
	}
	next := *s
	next.Fresh = random()
	return &next, nil
}

// Speak returns the set whose new key is spoken.
func (s *Set) Speak() *Set {
	next := *s
	next.Gossip, next.Fresh = append(slices.Clone(s.Gossip), s.Fresh), nil
	return &next
}

// Quieten returns the set without the keys that nobody speaks any more.
func (s *Set) Quieten() *Set {
	next := *s
	next.Gossip = s.Gossip[len(s.Gossip)-1:]
	return &next
}

// RenewAuthority returns the set with a new authority, which signs from now on.
// Who trusts only the one before follows, for that one has signed the new one.
func (s *Set) RenewAuthority(cluster string) (*Set, error) {
	a, err := pki.NewAuthority(cluster, &s.CA[len(s.CA)-1])
	if err != nil {
		return nil, err
	}
	next := *s
	next.CA = append(slices.Clone(s.CA), a)
	return &next, nil
}

// ForgetAuthorities returns the set with the newest authority alone: nobody is
// let in any more with what others signed.
func (s *Set) ForgetAuthorities() *Set {
	next := *s
	last := s.CA[len(s.CA)-1]
	last.Cross = ""
	next.CA = []pki.Authority{last}
	return &next
}
