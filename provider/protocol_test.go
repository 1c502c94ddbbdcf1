package provider_test

import (
	"context"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
	"github.com/clusterd/terraform-provider-clusterd/internal/testcluster"
)

// plugin speaks the plugin protocol as Terraform does, for what no
// configuration can stage.
type plugin struct {
	t      *testing.T
	server tfprotov6.ProviderServer
	schema *tfprotov6.GetProviderSchemaResponse
}

type attrs map[string]tftypes.Value

func str(s string) tftypes.Value { return tftypes.NewValue(tftypes.String, s) }

func newPlugin(t *testing.T, config attrs) (*plugin, []*tfprotov6.Diagnostic) {
	t.Helper()
	server := newServer(t)
	schema, err := server.GetProviderSchema(t.Context(), &tfprotov6.GetProviderSchemaRequest{})
	if err != nil || len(schema.Diagnostics) > 0 {
		t.Fatal(err, schema.Diagnostics)
	}
	p := &plugin{t, server, schema}
	resp, err := server.ConfigureProvider(t.Context(), &tfprotov6.ConfigureProviderRequest{Config: p.value(schema.Provider.ValueType(), config)})
	if err != nil {
		t.Fatal(err)
	}
	return p, resp.Diagnostics
}

// value fills what is not given with null.
func (p *plugin) value(t tftypes.Type, given attrs) *tfprotov6.DynamicValue {
	p.t.Helper()
	all := attrs{}
	for name, at := range t.(tftypes.Object).AttributeTypes {
		all[name] = tftypes.NewValue(at, nil)
	}
	maps.Copy(all, given)
	v, err := tfprotov6.NewDynamicValue(t, tftypes.NewValue(t, map[string]tftypes.Value(all)))
	if err != nil {
		p.t.Fatal(err)
	}
	return &v
}

func (p *plugin) null(t tftypes.Type) *tfprotov6.DynamicValue {
	v, err := tfprotov6.NewDynamicValue(t, tftypes.NewValue(t, nil))
	if err != nil {
		p.t.Fatal(err)
	}
	return &v
}

// plan plans the creation of a resource.
func (p *plugin) plan(kind string, config attrs) *tfprotov6.PlanResourceChangeResponse {
	p.t.Helper()
	t := p.schema.ResourceSchemas[kind].ValueType()
	resp, err := p.server.PlanResourceChange(p.t.Context(), &tfprotov6.PlanResourceChangeRequest{
		TypeName: kind, PriorState: p.null(t), ProposedNewState: p.value(t, config), Config: p.value(t, config),
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return resp
}

// create applies a planned creation.
func (p *plugin) create(kind string, config attrs) *tfprotov6.ApplyResourceChangeResponse {
	p.t.Helper()
	t := p.schema.ResourceSchemas[kind].ValueType()
	planned := p.plan(kind, config)
	resp, err := p.server.ApplyResourceChange(p.t.Context(), &tfprotov6.ApplyResourceChangeRequest{
		TypeName: kind, PriorState: p.null(t), PlannedState: planned.PlannedState, Config: p.value(t, config), PlannedPrivate: planned.PlannedPrivate,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return resp
}

// say renders diagnostics, one a line: severity path: summary: detail.
func say(diags []*tfprotov6.Diagnostic) string {
	var b strings.Builder
	for _, d := range diags {
		b.WriteString(strings.ToLower(d.Severity.String()) + " ")
		if d.Attribute != nil {
			b.WriteString(d.Attribute.String() + ": ")
		}
		b.WriteString(d.Summary + ": " + d.Detail + "\n")
	}
	return b.String()
}

func (c *cluster) settings() attrs {
	return attrs{"address": str(c.URL()), "token": str(c.Token()), "ca_file": str(c.CAFile())}
}

// testPlanWarnings: what a plan says of what only apply can know for sure.
func testPlanWarnings(t *testing.T, c *cluster) {
	p, diags := newPlugin(t, c.settings())
	if len(diags) > 0 {
		t.Fatal(say(diags))
	}
	app := attrs{"name": str("web"), "image": str("nginx:1"), "namespace": str("later")}
	if got := say(p.plan("clusterd_app", app).Diagnostics); !strings.HasPrefix(got, `warning AttributeName("namespace"): Namespace later does not exist yet: `) {
		t.Errorf("a namespace that does not exist says at plan: %q", got)
	}
	large := attrs{"name": str("web"), "image": str("nginx:1"), "namespace": str("default"), "cpu": str("1000")}
	if got := say(p.plan("clusterd_app", large).Diagnostics); !strings.HasPrefix(got, `warning AttributeName("image"): 0 of 1 pods fit now: No node fits: 3 need 1000 cpu`) {
		t.Errorf("an app that fits no node says at plan: %q", got)
	}
	p.plan("clusterd_namespace", attrs{"name": str("later")})
	if got := say(p.plan("clusterd_app", app).Diagnostics); got != "" {
		t.Errorf("a namespace that the same plan makes says: %q", got)
	}
	pairs := func(k, v string) tftypes.Value {
		return tftypes.NewValue(tftypes.Map{ElementType: tftypes.String}, map[string]tftypes.Value{k: str(v)})
	}
	lacks := attrs{"name": str("web"), "image": str("nginx:1"), "namespace": str("default"), "configs": pairs("LEVEL", "flags/level")}
	if got := say(p.plan("clusterd_app", lacks).Diagnostics); !strings.HasPrefix(got, `warning AttributeName("configs").ElementKeyString("LEVEL"): Config flags does not exist yet: No pod of this runs before it does. `) {
		t.Errorf("an app of a config that does not exist says at plan: %q", got)
	}
	p.plan("clusterd_config", attrs{"name": str("flags"), "namespace": str("default"), "data": pairs("level", "debug")})
	if got := say(p.plan("clusterd_app", lacks).Diagnostics); got != "" {
		t.Errorf("an app of a config that the same plan makes says: %q", got)
	}
}

// ports is a service's, with one called http.
func ports(http attrs) tftypes.Value {
	types := map[string]tftypes.Type{}
	for name, v := range http {
		types[name] = v.Type()
	}
	one := tftypes.Object{AttributeTypes: types}
	return tftypes.NewValue(tftypes.Object{AttributeTypes: map[string]tftypes.Type{"http": one}},
		map[string]tftypes.Value{"http": tftypes.NewValue(one, map[string]tftypes.Value(http))})
}

func number(n int) tftypes.Value { return tftypes.NewValue(tftypes.Number, n) }

// testServiceLeadsNowhere: a service without an app, or without a port of it,
// is made, and says so.
func testServiceLeadsNowhere(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	if _, err := client.Of(c.Client(), api.Apps).Create(t.Context(), &api.App{Meta: api.Meta{Namespace: ns, Name: "web"},
		Spec: api.AppSpec{Container: api.Container{Image: "nginx:1", Ports: map[string]api.Port{"http": "80"}}}}); err != nil {
		t.Fatal(err)
	}
	p, _ := newPlugin(t, c.settings())
	for name, want := range map[string]string{
		"nope": "warning Service " + ns + "/nope leads nowhere: there is no app nope in namespace " + ns,
		"web":  "warning Service " + ns + "/web: port http leads nowhere",
	} {
		config := attrs{"name": str(name), "namespace": str(ns), "app": str(name), "ports": ports(attrs{"port": number(80), "target": str("metrics")})}
		if got := say(p.create("clusterd_service", config).Diagnostics); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	config := attrs{"name": str("good"), "namespace": str(ns), "app": str("web"), "ports": ports(attrs{"port": number(80)})}
	if got := say(p.create("clusterd_service", config).Diagnostics); got != "" {
		t.Errorf("a service that leads to an app says %q", got)
	}
}

// testDryRun: the cluster itself is asked about a plan.
func testDryRun(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	services := client.Of(c.Client(), api.Services)
	if _, err := services.Create(t.Context(), &api.Service{Meta: api.Meta{Namespace: ns, Name: "first"},
		Spec: api.ServiceSpec{App: "web", IP: "10.96.55.5", Ports: map[string]api.ServicePort{"http": {Port: 80}}}}); err != nil {
		t.Fatal(err)
	}
	p, _ := newPlugin(t, c.settings())
	got := say(p.plan("clusterd_service", attrs{"name": str("second"), "namespace": str(ns), "app": str("web"), "ip": str("10.96.55.5"), "ports": ports(attrs{"port": number(80)})}).Diagnostics)
	if !strings.HasPrefix(got, "warning ") || !strings.Contains(got, "taken by") {
		t.Errorf("an address that is taken says at plan: %q", got)
	}
	if _, err := services.Get(t.Context(), ns, "second"); !api.Is(err, api.NotFound) {
		t.Errorf("a plan made the service (%v)", err)
	}
	wrong := c.settings()
	wrong["token"] = str("ct_nobody_0000")
	p, _ = newPlugin(t, wrong)
	if got := say(p.plan("clusterd_app", attrs{"name": str("web"), "image": str("nginx:1")}).Diagnostics); !strings.HasPrefix(got, "error ") {
		t.Errorf("a wrong token says at plan: %q", got)
	}
}

// testInterrupt: Ctrl-C during a rollout returns at once, with the state saved.
func testInterrupt(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	p, _ := newPlugin(t, c.settings())
	done := make(chan *tfprotov6.ApplyResourceChangeResponse, 1)
	go func() {
		done <- p.create("clusterd_app", attrs{"name": str("web"), "namespace": str(ns), "image": str("ready-after-10m:1"),
			"ports":  tftypes.NewValue(tftypes.Map{ElementType: tftypes.String}, map[string]tftypes.Value{"http": str("80")}),
			"health": tftypes.NewValue(tftypes.Object{AttributeTypes: map[string]tftypes.Type{"http": tftypes.String}}, map[string]tftypes.Value{"http": str("/")})})
	}()
	c.Await("the app exists", func(ctx context.Context) (bool, error) {
		_, err := client.Of(c.Client(), api.Apps).Get(ctx, ns, "web")
		return err == nil, nil
	})
	if _, err := p.server.StopProvider(t.Context(), &tfprotov6.StopProviderRequest{}); err != nil {
		t.Fatal(err)
	}
	select {
	case resp := <-done:
		if got := say(resp.Diagnostics); !strings.HasPrefix(got, "warning ") || !strings.Contains(got, "interrupted") { // an error would taint it
			t.Errorf("an interrupted create says: %q", got)
		}
		state, err := resp.NewState.Unmarshal(p.schema.ResourceSchemas["clusterd_app"].ValueType())
		if err != nil || state.IsNull() {
			t.Errorf("an interrupted create saved no state (%v)", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("an interrupted create goes on")
	}
}

// TestFractionIsOneFault: replicas = 1.5 is the user's mistake, said once.
func TestFractionIsOneFault(t *testing.T) {
	p, _ := newPlugin(t, attrs{"address": str("https://127.0.0.1:1"), "token": str("ct_nobody_0000")})
	resp, err := p.server.ValidateResourceConfig(t.Context(), &tfprotov6.ValidateResourceConfigRequest{
		TypeName: "clusterd_app",
		Config: p.value(p.schema.ResourceSchemas["clusterd_app"].ValueType(),
			attrs{"name": str("web"), "image": str("nginx:1"), "replicas": tftypes.NewValue(tftypes.Number, 1.5)}),
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := say(resp.Diagnostics), "error AttributeName(\"replicas\"): Bad replicas: Want a whole number.\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestConfigure: the provider finds its cluster where it is told, and nowhere else.
func TestConfigure(t *testing.T) {
	unknown := tftypes.NewValue(tftypes.String, tftypes.UnknownValue)
	for name, test := range map[string]struct {
		env    map[string]string
		config attrs
		want   string // prefix of the diagnostics
	}{
		"nothing":       {nil, nil, `error AttributeName("address"): No address of the cluster`},
		"no token":      {nil, attrs{"address": str("https://c:1")}, `error AttributeName("token"): No token`},
		"plain http":    {nil, attrs{"address": str("http://c:1"), "token": str("t")}, `error AttributeName("address"): Bad address of the cluster: Address "http://c:1": want https`},
		"several":       {nil, attrs{"address": str("https://c:1, https://d:1"), "token": str("t")}, ``},
		"environment":   {map[string]string{"CLUSTERD_ADDR": "https://c:1", "CLUSTERD_TOKEN": "t"}, nil, ``},
		"no file":       {map[string]string{"CLUSTERD_CACERT": "/nowhere"}, attrs{"address": str("https://c:1"), "token": str("t")}, `error AttributeName("ca_file"): No usable CA certificate`},
		"no pem":        {nil, attrs{"address": str("https://c:1"), "token": str("t"), "ca_certificate": str("x")}, `error AttributeName("ca_certificate"): No usable CA certificate`},
		"both":          {nil, attrs{"address": str("https://c:1"), "token": str("t"), "ca_certificate": str("x"), "ca_file": str("y")}, `error AttributeName("ca_certificate")`},
		"bad namespace": {nil, attrs{"address": str("https://c:1"), "token": str("t"), "namespace": str("Shop")}, `error AttributeName("namespace"): Bad namespace: "Shop" is not a name`},
		"not known yet": {nil, attrs{"address": unknown}, `warning AttributeName("address"): The cluster is not known yet`},
	} {
		t.Run(name, func(t *testing.T) {
			for k, v := range test.env {
				t.Setenv(k, v)
			}
			_, diags := newPlugin(t, test.config)
			if got := say(diags); test.want == "" && got != "" || !strings.HasPrefix(got, test.want) {
				t.Errorf("says %q, want %q", got, test.want)
			}
		})
	}
}

// TestUnreachable: a plan does without a cluster that does not answer, and says so.
func TestUnreachable(t *testing.T) {
	p, _ := newPlugin(t, attrs{"address": str("https://127.0.0.1:1"), "token": str("t")})
	for range 3 {
		got := say(p.plan("clusterd_app", attrs{"name": str("web"), "image": str("nginx:1")}).Diagnostics)
		if !strings.HasPrefix(got, "warning The cluster did not check this plan: Cannot reach https://127.0.0.1:1") {
			t.Errorf("says %q", got)
		}
	}
	resp := p.create("clusterd_app", attrs{"name": str("web"), "image": str("nginx:1")})
	if got := say(resp.Diagnostics); !strings.HasPrefix(got, "error Cannot create app default/web: Cannot reach") {
		t.Errorf("apply says %q", got)
	}
}

// TestServerRestart: a control plane that comes back during an apply costs the
// apply nothing but time.
func TestServerRestart(t *testing.T) {
	c := &cluster{Cluster: testcluster.Start(t, testcluster.Config{Nodes: 1, Etcd: true})}
	p, _ := newPlugin(t, c.settings())
	done := make(chan *tfprotov6.ApplyResourceChangeResponse, 1)
	go func() {
		done <- p.create("clusterd_app", attrs{"name": str("web"), "image": str("ready-after-2s:1"),
			"ports":  tftypes.NewValue(tftypes.Map{ElementType: tftypes.String}, map[string]tftypes.Value{"http": str("80")}),
			"health": tftypes.NewValue(tftypes.Object{AttributeTypes: map[string]tftypes.Type{"http": tftypes.String}}, map[string]tftypes.Value{"http": str("/")}),
			"update": tftypes.NewValue(tftypes.Object{AttributeTypes: map[string]tftypes.Type{"healthy_for": tftypes.String}}, map[string]tftypes.Value{"healthy_for": str("0s")})})
	}()
	c.Await("the rollout is under way", func(ctx context.Context) (bool, error) {
		a, err := client.Of(c.Client(), api.Apps).Get(ctx, "default", "web")
		return err == nil && a.Status.Rollout.Phase == api.RolloutInProgress, nil
	})
	c.Server.Stop()
	c.Server.Start()
	select {
	case resp := <-done:
		if got := say(resp.Diagnostics); got != "" {
			t.Errorf("the apply says: %q", got)
		}
	case <-time.After(time.Minute):
		t.Fatal("the apply never ends")
	}
}
