//go:build !race

package provider_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/terraform"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/pki"
)

// tokenLife: who has the secret is let in, and nobody with the one before; a
// secret that stays is no change, and one that is new on every run is none unless
// its version says so. No secret is in what Terraform writes.
func tokenLife(t *testing.T, c *cluster, _ string) story {
	secret := func(n int) string { return strings.Repeat("0a1B2c3D4e", 4) + fmt.Sprint("x", n) }
	config := func(n int, more string) string {
		return fmt.Sprintf(`
resource "clusterd_token" "it" {
  name      = "accepted"
  role      = "admin"
  secret_wo = %q
  %s
}`, secret(n), more)
	}
	lets := func(n int, want bool) {
		t.Helper()
		_, err := client.Of(c.as(t, "ct_accepted_"+secret(n)), api.Nodes).Get(t.Context(), "", "w1")
		if (err == nil) != want || err != nil && !api.Is(err, api.Unauthenticated) {
			t.Errorf("secret %d: %v", n, err)
		}
	}
	step := func(n int, more string, action plancheck.ResourceActionType) resource.TestStep {
		return resource.TestStep{Config: config(n, more), ConfigPlanChecks: plans("clusterd_token.it", action), Check: resource.ComposeTestCheckFunc(
			resource.TestCheckNoResourceAttr("clusterd_token.it", "secret_wo"))}
	}
	after := func(s resource.TestStep, lets1, lets2, lets3 bool) resource.TestStep {
		s.Check = resource.ComposeTestCheckFunc(s.Check, func(*terraform.State) error {
			lets(1, lets1)
			lets(2, lets2)
			lets(3, lets3)
			return nil
		})
		return s
	}
	return story{[]resource.TestStep{
		after(step(1, "", plancheck.ResourceActionCreate), true, false, false),
		after(step(1, `description = "same"`, plancheck.ResourceActionUpdate), true, false, false),
		after(step(2, "", plancheck.ResourceActionUpdate), false, true, false),
		after(step(2, "secret_wo_version = 1", plancheck.ResourceActionUpdate), false, true, false),
		after(step(3, "secret_wo_version = 1", plancheck.ResourceActionNoop), false, true, false),
		after(step(3, "secret_wo_version = 2", plancheck.ResourceActionUpdate), false, false, true),
		{Config: config(1, `expires_at = "2020-01-01T00:00:00Z"`), ExpectError: regexp.MustCompile(`(?s)Bad expires_at.*past`)},
	}, func() { lets(3, false) }}
}

// as is a client of whoever has the token.
func (c *cluster) as(t *testing.T, token string) *client.Client {
	t.Helper()
	roots, err := pki.LoadRoots(c.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	cl, err := client.New(client.Config{Addresses: c.URLs(), Token: token, TLS: roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// testJoinToken: the example's token lets in the machine it is for, once, and is
// in nothing that Terraform writes.
func testJoinToken(t *testing.T, c *cluster) {
	w := newWorkspace(t, c.provider(), c.Env())
	example := strings.ReplaceAll(read(t, "../examples/ephemeral-resources/clusterd_join_token/ephemeral-resource.tf"), "w9", "guest")
	mistakes := map[string]string{"role": `"admin"`, "ttl": `"1s"`, "uses": "0", "machine": `"W9!"`}
	var bad strings.Builder
	for attribute, value := range mistakes {
		fmt.Fprintf(&bad, "ephemeral \"clusterd_join_token\" %q {\n  %s = %s\n}\n", attribute, attribute, value)
	}
	w.write("main.tf", bad.String())
	out := w.must(1, "plan")
	for attribute := range mistakes {
		if !regexp.MustCompile("Bad " + attribute + `\n[^╷]*in ephemeral "clusterd_join_token" "` + attribute + `"`).MatchString(out) {
			t.Errorf("a bad %s: %s", attribute, out)
		}
	}
	w.write("main.tf", example)
	w.must(0, "apply", "-auto-approve")
	file := filepath.Join(w.dir, "guest.token")
	given := read(t, file)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	tok, err := pki.ParseJoinToken(given)
	if err != nil {
		t.Fatal(err)
	}
	o, err := client.Of(c.Client(), api.Tokens).Get(t.Context(), "", tok.ID)
	if err != nil {
		t.Fatal(err)
	}
	if s := o.Spec; s.Role != api.RoleNode || s.MaxUses != 1 || s.Name != "guest" || time.Until(s.ExpiresAt) > time.Hour || time.Until(s.ExpiresAt) < 50*time.Minute {
		t.Errorf("the token is %+v", s)
	}
	for _, try := range []struct {
		name string
		code int // 0: it joins
	}{{"stranger", http.StatusUnauthorized}, {"guest", 0}, {"guest", http.StatusUnauthorized}} {
		_, err := pki.Join(t.Context(), c.Addr(), tok, pki.JoinRequest{Name: try.name, Address: "127.0.0.1"})
		no, refused := errors.AsType[*pki.RefusedError](err)
		if refused != (try.code != 0) || refused && no.Status != try.code || !refused && err != nil {
			t.Errorf("%s joins: %v", try.name, err)
		}
	}
	if err := client.Of(c.Client(), api.Nodes).Delete(t.Context(), "", "guest", ""); err != nil {
		t.Error(err)
	}
	err = filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if strings.Contains(read(t, path), tok.Secret) {
			t.Errorf("%s has the secret", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
