package seal

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestOpensOnlyItsOwn: what was sealed opens again under its name, and neither
// under another nor with a bit changed.
func TestOpensOnlyItsOwn(t *testing.T) {
	ring, err := Open("")
	if err != nil {
		t.Fatal(err)
	}
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

// TestRotation: an old envelope opens until its key is forgotten, a new one
// needs the new key, and the file survives a restart.
func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets.keys")
	ring, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	first := ring.Current()
	old := ring.Seal("n", []byte("v"))
	second, err := ring.Add()
	if err != nil || second == first {
		t.Fatalf("key %s after %s: %v", second, first, err)
	}
	if ring, err = Open(path); err != nil {
		t.Fatal(err)
	}
	if got, err := ring.Open("n", old); err != nil || string(got) != "v" {
		t.Fatalf("the old envelope: %q %v", got, err)
	}
	next, err := ring.Reseal("n", old)
	if err != nil || KeyOf(old) != first || KeyOf(next) != second {
		t.Fatalf("sealed anew with %s: %v", KeyOf(next), err)
	}
	if gone, err := ring.Forget(func(id string) bool { return id == first }); err != nil || len(gone) > 0 {
		t.Fatalf("a key in use was forgotten: %v %v", gone, err)
	}
	if gone, err := ring.Forget(func(string) bool { return false }); err != nil || len(gone) != 1 || gone[0] != first {
		t.Fatalf("forgot %v: %v", gone, err)
	}
	if got, err := ring.Open("n", next); err != nil || string(got) != "v" {
		t.Fatalf("the new envelope: %q %v", got, err)
	}
	if _, err := ring.Open("n", old); err == nil || !strings.Contains(err.Error(), "restore it from a backup") {
		t.Errorf("an envelope without its key: %v", err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the ring is %v: %v", st.Mode(), err)
	}
}

// TestNameTellsNothing: the same values have the same name in one cluster, and
// another in the next.
func TestNameTellsNothing(t *testing.T) {
	a, _ := Open("")
	b, _ := Open("")
	values := map[string]string{"url": "postgres://x", "user": "y"}
	if a.Name("s", values) != a.Name("s", map[string]string{"user": "y", "url": "postgres://x"}) {
		t.Error("the same values have two names")
	}
	if a.Name("s", values) == b.Name("s", values) || a.Name("s", values) == a.Name("t", values) {
		t.Error("a name tells values apart without the ring, or secrets not")
	}
}
