package provider_test

import (
	"os"
	"strings"
	"testing"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/testcluster"
)

func TestMain(m *testing.M) {
	os.Setenv("CHECKPOINT_DISABLE", "1")
	for _, name := range []string{"CLUSTERD_ADDR", "CLUSTERD_TOKEN", "CLUSTERD_CACERT", "CLUSTERD_NAMESPACE", "TF_CLI_CONFIG_FILE"} {
		os.Unsetenv(name)
	}
	testcluster.Main(m)
}

// cluster is one cluster that all acceptance tests share, each in a namespace
// of its own.
type cluster struct {
	*testcluster.Cluster
	// provider is the folder of the provider's program, which is linked for the
	// first test that asks for it.
	provider func() string
}

// namespace makes a namespace for one test.
func (c *cluster) namespace(t *testing.T) string {
	t.Helper()
	_, name, _ := strings.Cut(t.Name(), "/")
	name = strings.ToLower(strings.ReplaceAll(name, "/", "-"))
	if _, err := client.Of(c.Client(), api.Namespaces).Create(t.Context(), &api.Namespace{Meta: api.Meta{Name: name}}); err != nil {
		t.Fatal(err)
	}
	return name
}

// app reads an app from the cluster.
func (c *cluster) app(t *testing.T, namespace, name string) *api.App {
	t.Helper()
	a, err := client.Of(c.Client(), api.Apps).Get(t.Context(), namespace, name)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// writeApp changes an app behind Terraform's back.
func (c *cluster) writeApp(t *testing.T, namespace, name string, change func(*api.App)) {
	t.Helper()
	a := c.app(t, namespace, name)
	change(a)
	if _, err := client.Of(c.Client(), api.Apps).Put(t.Context(), a); err != nil {
		t.Fatal(err)
	}
}

// gone expects that nothing is left of an app.
func (c *cluster) gone(t *testing.T, namespace, name string) {
	t.Helper()
	if _, err := client.Of(c.Client(), api.Apps).Get(t.Context(), namespace, name); !api.Is(err, api.NotFound) {
		t.Errorf("app %s/%s is still there after destroy (%v)", namespace, name, err)
	}
	pods, _, err := client.Of(c.Client(), api.Pods).List(t.Context(), namespace, client.By("app", name))
	if err != nil || len(pods) > 0 {
		t.Errorf("%d pods of app %s/%s are left after destroy (%v)", len(pods), namespace, name, err)
	}
}
