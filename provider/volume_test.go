//go:build !race

package provider_test

import (
	"fmt"
	"regexp"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

// volumeLife: a volume grows in place, does not shrink, comes to be with its
// first pod, and is not deleted while it is protected or used.
func volumeLife(t *testing.T, c *cluster, ns string) story {
	const data = "clusterd_volume.data"
	config := func(volume, rest string) string {
		return fmt.Sprintf(`
resource "clusterd_volume" "data" {
  name = "data"
  %s
}
%s`, volume, rest)
	}
	app := `
resource "clusterd_app" "db" {
  name   = "db"
  image  = "redis:7"
  mounts = { "/data" = { volume = clusterd_volume.data.name }, "/tmp" = { scratch = "8Mi" } }
  update = { healthy_for = "0s" }
}`
	volumes := client.Of(c.Client(), api.Volumes)
	home := ""
	return story{[]resource.TestStep{
		{Config: config(`size = "64Mi"`, ""), ConfigPlanChecks: plans(data, plancheck.ResourceActionCreate),
			Check: resource.TestCheckNoResourceAttr(data, "deletion_protection")},
		{Config: config(`size = "64Mi"`, app), ConfigPlanChecks: plans("clusterd_app.db", plancheck.ResourceActionCreate)},
		{PreConfig: func() {
			v, err := volumes.Get(t.Context(), ns, "data")
			if err != nil || v.Status.Node == "" || v.Status.Phase != api.VolumeBound {
				t.Fatalf("%+v %v", v, err)
			}
			home = v.Status.Node
		}, Config: config(`size = "128Mi"`, app), ConfigPlanChecks: plans(data, plancheck.ResourceActionUpdate)},
		{Config: config(`size = "32Mi"`, app), ExpectError: regexp.MustCompile(`(?is)is\s+128Mi\s+and\s+cannot\s+shrink\s+to\s+32Mi`)},
		{Config: config("size = \"128Mi\"\n  node = \"w9\"", app), ExpectError: regexp.MustCompile(`(?is)the\s+data\s+is\s+on\s+node\s+w\d\s+for\s+good`)},
		{ExpectError: regexp.MustCompile(`(?is)is\s+protected\s+from\s+deletion:\s+set\s+deletion_protection\s+=\s+false`)},
		{Config: config("size = \"128Mi\"\n  deletion_protection = false", app), ConfigPlanChecks: plans(data, plancheck.ResourceActionUpdate)},
		{PreConfig: func() {
			if v, err := volumes.Get(t.Context(), ns, "data"); err != nil || v.Status.Node != home {
				t.Errorf("it moved from %s: %+v %v", home, v, err)
			}
			if err := volumes.Delete(t.Context(), ns, "data", ""); !api.Is(err, api.Conflict) {
				t.Errorf("deleted while it is used: %v", err)
			}
		}, Config: config("size = \"128Mi\"\n  deletion_protection = false", app)},
	}, func() {
		if _, err := volumes.Get(t.Context(), ns, "data"); !api.Is(err, api.NotFound) {
			t.Errorf("the volume is still there after destroy (%v)", err)
		}
	}}
}

// testPowers: what the namespace does not allow is an error at its attribute.
func testPowers(t *testing.T, c *cluster) {
	var config string
	want := map[string]string{}
	for name, denied := range map[string][2]string{
		"privileged": {`security = { privileged = true }`, "security"},
		"admin":      {`security = { add = ["NET_ADMIN"] }`, "security"},
		"network":    {`host_network = true`, "host_network"},
		"logs":       {`mounts = { "/logs" = { host = "/var/log" } }`, "mounts"},
	} {
		config += fmt.Sprintf("resource \"clusterd_app\" %q {\n  name = %q\n  image = \"nginx:1\"\n  %s\n}\n", name, name, denied[0])
		want["clusterd_app."+name] = denied[1] + `.*namespace\s+powers\s+does\s+not\s+allow\s+it`
	}
	refused(t, c.config(c.namespace(t), "%s", config), want)
}

// appPowers: what every namespace allows.
func appPowers(*testing.T, *cluster, string) story {
	return story{steps: []resource.TestStep{{Config: `
resource "clusterd_app" "modest" {
  name     = "modest"
  image    = "nginx:1"
  security = { drop = ["ALL"], add = ["CHOWN"], read_only_root = true, user = "10001" }
}`, ConfigPlanChecks: plans("clusterd_app.modest", plancheck.ResourceActionCreate)}}}
}
