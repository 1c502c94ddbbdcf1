package keys

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSetKeeps: a set comes back from its file and from its seal, and neither
// another root nor a changed byte opens it.
func TestSetKeeps(t *testing.T) {
	set, err := New("test")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "keys.json")
	if _, err := Load(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := set.Save(path); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v: %v", st.Mode(), err)
	}
	loaded, err := Load(path)
	if err != nil || !bytes.Equal(loaded.Encode(), set.Encode()) {
		t.Errorf("another set came back: %v", err)
	}
	sealed := set.Seal()
	for _, secret := range [][]byte{set.Root, set.Gossip[0], []byte("PRIVATE KEY"), set.Secrets.Keys[0].Secret} {
		if bytes.Contains(sealed, secret) {
			t.Error("the seal shows a key")
		}
	}
	opened, err := Open(set.Root, sealed)
	if err != nil || !bytes.Equal(opened.Encode(), set.Encode()) {
		t.Errorf("another set was sealed: %v", err)
	}
	other, err := New("other")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(other.Root, sealed); err == nil || !strings.Contains(err.Error(), "another cluster") {
		t.Errorf("another cluster's root: %v", err)
	}
	sealed[len(sealed)/2] ^= 1
	if _, err := Open(set.Root, sealed); err == nil {
		t.Error("a changed seal opened")
	}
}

// TestHalfASetIsNone: what is left of a damaged file is said, and not its keys.
func TestHalfASetIsNone(t *testing.T) {
	set, err := New("test")
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func(*Set){
		"root key":               func(s *Set) { s.Root = nil },
		"key to gossip with":     func(s *Set) { s.Gossip = nil },
		"is damaged":             func(s *Set) { s.Gossip = [][]byte{{1}} },
		"no authority":           func(s *Set) { s.CA = nil },
		"no keys for secrets":    func(s *Set) { s.Secrets.Keys = nil },
		"for secrets is damaged": func(s *Set) { s.Secrets.Keys = []Key{{ID: "x"}} },
	} {
		half := *set
		damage(&half)
		if _, err := Parse(half.Encode()); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Parse([]byte("{")); err == nil {
		t.Error("half a file is a set")
	}
}
