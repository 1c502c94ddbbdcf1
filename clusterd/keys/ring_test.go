package keys

import (
	"bytes"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestOpensOnlyItsOwn: what was sealed opens again under its name, and neither
// under another nor with a bit changed.
func TestOpensOnlyItsOwn(t *testing.T) {
	ring := NewRing()
	rapid.Check(t, func(t *rapid.T) {
		plain := rapid.SliceOf(rapid.Byte()).Draw(t, "plain")
		sealed := ring.Seal("shop/secret/db/1", plain)
		if got, err := ring.Open("shop/secret/db/1", sealed); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("opened to %q: %v", got, err)
		}
		if len(plain) > 3 && bytes.Contains(sealed, plain) {
			t.Fatal("the envelope shows what is in it")
		}
		for _, name := range []string{"shop/secret/db/2", "shop/secret/web/1", "bank/secret/db/1", ""} {
			if _, err := ring.Open(name, sealed); err == nil {
				t.Fatalf("opened as %q", name)
			}
		}
		i := rapid.IntRange(0, len(sealed)-1).Draw(t, "byte")
		broken := bytes.Clone(sealed)
		broken[i] ^= 1
		if got, err := ring.Open("shop/secret/db/1", broken); err == nil && !bytes.Equal(got, plain) {
			t.Fatalf("a changed envelope opened to %q", got)
		}
	})
}

// TestRotation: an old envelope opens until its key is forgotten, and a new one
// needs the new key.
func TestRotation(t *testing.T) {
	ring := NewRing()
	first := ring.Current()
	old := ring.Seal("n", []byte("v"))
	ring = ring.Add()
	second := ring.Current()
	if second == first {
		t.Fatalf("key %s after itself", second)
	}
	if got, err := ring.Open("n", old); err != nil || string(got) != "v" {
		t.Fatalf("the old envelope: %q %v", got, err)
	}
	next, err := ring.Reseal("n", old)
	if err != nil || KeyOf(old) != first || KeyOf(next) != second {
		t.Fatalf("sealed anew with %s: %v", KeyOf(next), err)
	}
	if _, gone := ring.Forget(func(id string) bool { return id == first }); len(gone) > 0 {
		t.Fatalf("a key in use was forgotten: %v", gone)
	}
	ring, gone := ring.Forget(func(string) bool { return false })
	if len(gone) != 1 || gone[0] != first {
		t.Fatalf("forgot %v", gone)
	}
	if got, err := ring.Open("n", next); err != nil || string(got) != "v" {
		t.Fatalf("the new envelope: %q %v", got, err)
	}
	if _, err := ring.Open("n", old); err == nil || !strings.Contains(err.Error(), "restore an older backup") {
		t.Errorf("an envelope without its key: %v", err)
	}
}

// TestNameTellsNothing: the same values have the same name in one cluster, and
// another in the next.
func TestNameTellsNothing(t *testing.T) {
	a, b := NewRing(), NewRing()
	values := map[string]string{"url": "postgres://x", "user": "y"}
	if a.Name("s", values) != a.Name("s", map[string]string{"user": "y", "url": "postgres://x"}) {
		t.Error("the same values have two names")
	}
	if a.Name("s", values) == b.Name("s", values) || a.Name("s", values) == a.Name("t", values) {
		t.Error("a name tells values apart without the ring, or secrets not")
	}
}
