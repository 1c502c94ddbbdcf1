package controller

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// TestExpiredTokensAreRemoved: a day after their end, and not those that never
// end or were renewed.
func TestExpiredTokensAreRemoved(t *testing.T) {
	inWorld(t, 0, nil, func(w *world) {
		tokens := client.Of(w.client, api.Tokens)
		for name, life := range map[string]time.Duration{"hour": time.Hour, "renewed": time.Hour, "days": 48 * time.Hour, "never": 0} {
			tok := &api.Token{Meta: api.Meta{Name: name}, Spec: api.TokenSpec{Role: api.RoleNode, Hash: strings.Repeat("ab", 32)}}
			if life > 0 {
				tok.Spec.ExpiresAt = api.Now().Add(life)
			}
			if _, err := tokens.Create(w.ctx, tok); err != nil {
				t.Fatal(err)
			}
		}
		want := func(after time.Duration, names ...string) {
			t.Helper()
			time.Sleep(after)
			all, _, err := tokens.List(w.ctx, "", nil)
			if err != nil {
				t.Fatal(err)
			}
			var have []string
			for _, tok := range all {
				have = append(have, tok.Meta.Name)
			}
			if slices.Sort(have); !slices.Equal(have, names) {
				t.Errorf("at %s there are %v, want %v", api.Now(), have, names)
			}
		}
		want(time.Hour+tokenRest-time.Minute, "days", "hour", "never", "renewed")
		tok, err := tokens.Get(w.ctx, "", "renewed")
		if err != nil {
			t.Fatal(err)
		}
		tok.Spec.ExpiresAt = api.Now().Add(time.Hour)
		if _, err := tokens.Replace(w.ctx, tok, tok.Meta.Generation); err != nil {
			t.Fatal(err)
		}
		want(2*time.Minute, "days", "never", "renewed")
	})
}
