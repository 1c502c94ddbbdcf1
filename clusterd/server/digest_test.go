package server

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/registry"
)

// A registry that did not answer is left alone for a while, one that said no is
// asked again; others are not held up, and one on this machine is never asked.
func TestASilentRegistryIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		r := &registries{silent: map[string]silent{}, ask: func(ctx context.Context, ref string, as registry.Credentials) (string, error) {
			asked++
			switch {
			case strings.HasPrefix(ref, "away.example/"):
				<-ctx.Done()
				return "", registry.Explain(ctx.Err())
			case strings.HasPrefix(ref, "no.example/"):
				return "", &registry.Trouble{Message: "the registry has no such image"}
			}
			return "sha256:1 for " + as.Username, nil
		}}
		ask := func(ref, want string, calls int) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			asked = 0
			digest, err := r.Digest(ctx, ref, "ada", "sesame")
			if err == nil {
				err = errors.New(digest)
			}
			if err.Error() != want || asked != calls {
				t.Errorf("%s: %v after %d questions", ref, err, asked)
			}
		}
		const away = "away.example: the registry does not answer in time"
		ask("away.example/web:1", away, 1)
		ask("away.example/other:2", away, 0)
		ask("no.example/web:1", "no.example: the registry has no such image", 1)
		ask("no.example/web:1", "no.example: the registry has no such image", 1)
		ask("nginx", "sha256:1 for ada", 1)
		time.Sleep(silence)
		ask("away.example/web:1", away, 1)
		for _, local := range []string{"localhost/web", "localhost:5000/web", "127.0.0.1:5000/web", "0.0.0.0:5000/web"} {
			ask(local, errLocal.Error(), 0)
		}
	})
}
