package api

import (
	"strings"
	"testing"
)

func TestParseImage(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("ab", 32)
	for ref, want := range map[string]string{
		"nginx":                          "docker.io/library/nginx:latest",
		"nginx:1.27":                     "docker.io/library/nginx:1.27",
		"shop/api:2":                     "docker.io/shop/api:2",
		"localhost/api":                  "localhost/api:latest",
		"localhost:5000/api:2":           "localhost:5000/api:2",
		"registry.local:5000/shop/api":   "registry.local:5000/shop/api:latest",
		"nginx" + digest:                 "docker.io/library/nginx" + digest,
		"registry.local/a/b:1" + digest:  "registry.local/a/b:1" + digest,
		"docker.io/library/nginx:latest": "docker.io/library/nginx:latest",
	} {
		r, err := ParseImage(ref)
		if err != nil || r.String() != want {
			t.Errorf("%s is %s (%v), want %s", ref, r, err, want)
		}
		if again, err := ParseImage(want); err != nil || again != r {
			t.Errorf("%s in full is %+v (%v), want %+v", ref, again, err, r)
		}
	}
	for _, ref := range []string{"", "No", "a b", "nginx:", "nginx@sha256:12", "/nginx"} {
		if r, err := ParseImage(ref); err == nil {
			t.Errorf("%q is %s, want an error", ref, r)
		}
	}
}
