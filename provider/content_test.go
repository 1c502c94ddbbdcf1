//go:build !race

package provider_test

import (
	"fmt"
	"regexp"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/terraform"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// configLife: a change is followed through the app that uses it; one that makes
// it fail leaves what was before, in the cluster and in the state.
func configLife(t *testing.T, c *cluster, ns string) story {
	const web = "clusterd_config.web"
	configs := client.Of(c.Client(), api.Configs)
	config := func(level string) string {
		return fmt.Sprintf(`
resource "clusterd_config" "web" {
  name = "web"
  data = { level = %q }
}
resource "clusterd_app" "configured" {
  name    = "configured"
  image   = "toolbox"
  args    = ["exit-if=LEVEL=bad", "listen", "on-term=0", "forever"]
  configs = { LEVEL = "${clusterd_config.web.name}/level" }
  update  = { healthy_for = "0s" }
}`, level)
	}
	rolledOut := func(level string) resource.TestCheckFunc {
		return func(*terraform.State) error {
			ro := c.app(t, ns, "configured").Status.Rollout
			if want := api.ConfigHash("config/web", map[string]string{"level": level}); ro.Phase != api.RolloutComplete || ro.Contents["config/web"] != want {
				return fmt.Errorf("the app is at %+v, want version %s complete", ro, want)
			}
			return nil
		}
	}
	return story{[]resource.TestStep{
		{Config: config("info"), ConfigPlanChecks: plans(web, plancheck.ResourceActionCreate), Check: rolledOut("info")},
		{Config: config("debug"), ConfigPlanChecks: plans(web, plancheck.ResourceActionUpdate,
			plancheck.ExpectResourceAction("clusterd_app.configured", plancheck.ResourceActionNoop)), Check: rolledOut("debug")},
		{Config: config("bad"), ExpectError: regexp.MustCompile(`(?s)Config ` + ns + `/web: the change made app ` + ns + `/configured fail and (was|is\s+being)\s+rolled\s+back.*exited\s+with\s+code\s+1.*will not run with LEVEL=bad`)},
		{Config: config("debug"), ConfigPlanChecks: plans(web, plancheck.ResourceActionNoop), Check: rolledOut("debug")},
		{PreConfig: func() { // drift
			o, err := configs.Get(t.Context(), ns, "web")
			if err != nil {
				t.Fatal(err)
			}
			o.Spec.Data = map[string]string{"level": "trace"}
			if _, err := configs.Put(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}, Config: config("debug"), ConfigPlanChecks: plans(web, plancheck.ResourceActionUpdate), Check: rolledOut("debug")},
		{PreConfig: func() { // disappears
			if err := configs.Delete(t.Context(), ns, "web", ""); err != nil {
				t.Fatal(err)
			}
		}, Config: config("debug"), ConfigPlanChecks: plans(web, plancheck.ResourceActionCreate), Check: rolledOut("debug")},
	}, func() {
		if _, err := configs.Get(t.Context(), ns, "web"); !api.Is(err, api.NotFound) {
			t.Errorf("the config is still there after destroy (%v)", err)
		}
	}}
}

// secretLife: values are written and never stored; other values, more of them,
// and somebody else's are found without a version number.
func secretLife(t *testing.T, c *cluster, ns string) story {
	const db = "clusterd_secret.db"
	secrets := client.Of(c.Client(), api.Secrets)
	config := func(url, generate string) string {
		return fmt.Sprintf(`
resource "clusterd_secret" "db" {
  name     = "db"
  data_wo  = { url = %q }
  generate = { password = { %s } }
}
resource "clusterd_app" "trusted" {
  name    = "trusted"
  image   = "toolbox"
  args    = ["exit-if=URL=hunter2-broken", "listen", "on-term=0", "forever"]
  secrets = { URL = "${clusterd_secret.db.name}/url", PASSWORD = "${clusterd_secret.db.name}/password" }
  update  = { healthy_for = "0s" }
}`, url, generate)
	}
	var hashes []string
	hash := func(same bool) resource.TestCheckFunc {
		return resource.ComposeTestCheckFunc(
			resource.TestCheckNoResourceAttr(db, "data_wo.%"),
			resource.TestCheckResourceAttrWith(db, "hash", func(v string) error {
				o, err := secrets.Get(t.Context(), ns, "db")
				if err != nil || o.Spec.Hash != v || o.Spec.Data != nil {
					return fmt.Errorf("state has %s, the cluster %+v: %v", v, o, err)
				}
				if n := len(hashes); n > 0 && (hashes[n-1] == v) != same {
					return fmt.Errorf("the hash is %s, was %v", v, hashes)
				}
				hashes = append(hashes, v)
				ro := c.app(t, ns, "trusted").Status.Rollout
				if ro.Phase != api.RolloutComplete || ro.Contents["secret/db"] != v {
					return fmt.Errorf("the app is at %+v, want version %s complete", ro, v)
				}
				return nil
			}))
	}
	return story{[]resource.TestStep{
		{Config: config("hunter2-one", ""), ConfigPlanChecks: plans(db, plancheck.ResourceActionCreate), Check: hash(false)},
		{Config: config("hunter2-one", "length = 32"), ConfigPlanChecks: plans(db, plancheck.ResourceActionUpdate), Check: hash(true)},
		{Config: config("hunter2-two", "length = 32"), ConfigPlanChecks: plans(db, plancheck.ResourceActionUpdate), Check: hash(false)},
		{Config: config("hunter2-two", "length = 40"), ConfigPlanChecks: plans(db, plancheck.ResourceActionUpdate), Check: hash(false)},
		{Config: config("hunter2-broken", "length = 40"), ExpectError: regexp.MustCompile(`(?s)Secret ` + ns + `/db: the change made app ` + ns + `/trusted fail and (was|is\s+being)\s+rolled\s+back.*exited\s+with\s+code\s+1.*will not run with URL=\(secret\)`)},
		{Config: config("hunter2-two", "length = 40"), ConfigPlanChecks: plans(db, plancheck.ResourceActionNoop), Check: hash(true)},
		{PreConfig: func() { // drift
			o, err := secrets.Get(t.Context(), ns, "db")
			if err != nil {
				t.Fatal(err)
			}
			o.Spec = api.SecretSpec{Data: map[string]string{"url": "hunter2-theirs"}, Generate: o.Spec.Generate}
			if _, err := secrets.Put(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}, Config: config("hunter2-two", "length = 40"), ConfigPlanChecks: plans(db, plancheck.ResourceActionUpdate), Check: hash(true)},
		{PreConfig: func() { // disappears
			if err := secrets.Delete(t.Context(), ns, "db", ""); err != nil {
				t.Fatal(err)
			}
		}, Config: config("hunter2-two", "length = 40"), ConfigPlanChecks: plans(db, plancheck.ResourceActionCreate), Check: hash(false)},
	}, func() {
		if _, err := secrets.Get(t.Context(), ns, "db"); !api.Is(err, api.NotFound) {
			t.Errorf("the secret is still there after destroy (%v)", err)
		}
	}}
}

// secretVersion: a version number, where there is one, decides alone.
func secretVersion(*testing.T, *cluster, string) story {
	const db = "clusterd_secret.db"
	config := func(version int, url string) string {
		return fmt.Sprintf(`
resource "clusterd_secret" "db" {
  name            = "db"
  data_wo         = { url = %q }
  data_wo_version = %d
}`, url, version)
	}
	return story{steps: []resource.TestStep{
		{Config: config(1, "hunter2-one"), ConfigPlanChecks: plans(db, plancheck.ResourceActionCreate)},
		{Config: config(1, "hunter2-two"), ConfigPlanChecks: plans(db, plancheck.ResourceActionNoop)},
		{Config: config(2, "hunter2-two"), ConfigPlanChecks: plans(db, plancheck.ResourceActionUpdate)},
	}}
}
