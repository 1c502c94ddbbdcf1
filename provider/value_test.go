package provider

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
	"pgregory.net/rapid"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

func schemaOf(t *testing.T, r resource.Resource) schema.Schema {
	t.Helper()
	var resp resource.SchemaResponse
	r.Schema(t.Context(), resource.SchemaRequest{}, &resp)
	if d := resp.Schema.ValidateImplementation(t.Context()); d.HasError() {
		t.Fatal(d)
	}
	return resp.Schema
}

// TestNoFieldForgotten compares every resource with the API: each field of the
// spec is an attribute with its doc, required where the API requires it.
func TestNoFieldForgotten(t *testing.T) {
	for _, test := range []struct {
		r    resource.Resource
		spec reflect.Type
	}{
		{newApp(), reflect.TypeFor[api.AppSpec]()},
		{newService(), reflect.TypeFor[api.ServiceSpec]()},
		{newNamespace(), reflect.TypeFor[api.NamespaceSpec]()},
		{newNode(), reflect.TypeFor[api.NodeSpec]()},
	} {
		s := schemaOf(t, test.r)
		for _, f := range fields(test.spec) {
			a := s.Attributes[f.name]
			switch {
			case a == nil:
				t.Errorf("%s.%s has no attribute", test.spec, f.name)
			case !strings.HasPrefix(a.GetMarkdownDescription(), f.doc) || f.doc == "":
				t.Errorf("%s.%s: the attribute's doc is %q, the field's %q", test.spec, f.name, a.GetMarkdownDescription(), f.doc)
			case a.IsRequired() != f.required || a.IsComputed():
				t.Errorf("%s.%s: required %v, computed %v; want required %v", test.spec, f.name, a.IsRequired(), a.IsComputed(), f.required)
			}
		}
	}
}

// TestEveryKindHasAResource: what users declare can be declared in Terraform.
func TestEveryKindHasAResource(t *testing.T) {
	have := map[string]bool{}
	for _, newResource := range (&clusterd{}).Resources(t.Context()) {
		var resp resource.MetadataResponse
		newResource().Metadata(context.Background(), resource.MetadataRequest{ProviderTypeName: "clusterd"}, &resp)
		have[resp.TypeName] = true
	}
	elsewhere := []string{"Node", "Token"} // machines join, and tokens are secrets
	for _, k := range api.Kinds {
		if i := k.Info(); !i.Derived && !slices.Contains(elsewhere, i.Name) && !have["clusterd_"+strings.ToLower(i.Name)] {
			t.Errorf("kind %s has no resource", i.Name)
		}
	}
}

// apps draws apps of every shape: what is set and what is not.
var apps = rapid.Custom(func(t *rapid.T) *api.App {
	maybe := func(name string) bool { return rapid.Bool().Draw(t, name) }
	pick := func(name string, from ...string) string { return rapid.SampledFrom(from).Draw(t, name) }
	number := func(name string) *int {
		if !maybe("no " + name) {
			return nil
		}
		n := rapid.IntRange(1, 5).Draw(t, name)
		return &n
	}
	words := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b c", ""}), 0, 3)
	env := rapid.MapOfN(rapid.SampledFrom([]string{"A", "B", "C"}), rapid.String(), 0, 3)
	container := func() api.Container {
		return api.Container{
			Image: pick("image", "nginx", "nginx:1.27"), Command: words.Draw(t, "command"), Args: words.Draw(t, "args"), Env: env.Draw(t, "env"),
			CPU: api.CPU(pick("cpu", "", "100m", "0.5")), Memory: api.Memory(pick("memory", "", "64Mi")),
		}
	}
	a := &api.App{Kind: "App", Meta: api.Meta{Namespace: "shop", Name: "web"}, Spec: api.AppSpec{Container: container(), Replicas: number("replicas")}}
	if maybe("labels") {
		a.Meta.Labels = map[string]string{"team": "shop"}
	}
	a.Spec.Ports = map[string]api.Port{"http": "80"}
	if maybe("health") {
		a.Spec.Health = &api.Health{HTTP: "/", Port: pick("port", "", "http", "80"), Interval: api.Duration(pick("interval", "", "5s")), Threshold: number("threshold")}
	}
	if maybe("sidecars") {
		a.Spec.Sidecars = map[string]api.Container{"log": container()}
	}
	if maybe("init") {
		c := container()
		a.Spec.Init = map[string]api.Init{"first": {Image: pick("first", "", "setup"), Command: c.Command, Args: c.Args, Env: c.Env, CPU: c.CPU, Memory: c.Memory}}
	}
	if maybe("placement") {
		a.Spec.Placement = &api.Placement{Spread: pick("spread", "", "zone"), Require: map[string]string{"disk": "ssd"}}
	}
	if maybe("update") {
		a.Spec.Update = &api.Update{MaxParallel: number("max_parallel"), Surge: number("surge"), OnFailure: pick("on_failure", "", "pause")}
	}
	if maybe("stop") {
		a.Spec.Stop = &api.Stop{Signal: pick("signal", "", "SIGQUIT")}
	}
	return a
})

func app() *appResource { return newApp().(*appResource) }

func nulls(t tftypes.Type) values {
	v := values{}
	for name, at := range t.(tftypes.Object).AttributeTypes {
		v[name] = tftypes.NewValue(at, nil)
	}
	return v
}

// TestRoundTrip: an app said in HCL and read back is the same app, and reading
// it again changes nothing: no perpetual diff.
func TestRoundTrip(t *testing.T) {
	r, typ := app(), schemaOf(t, newApp()).Type().TerraformType(t.Context())
	rapid.Check(t, func(t *rapid.T) {
		a := apps.Draw(t, "app")
		said := r.state(a, nulls(typ), typ)
		back, rd := r.object(valuesOf(said))
		if len(rd.faults)+len(rd.unknown) > 0 {
			t.Fatalf("not readable: %v", rd)
		}
		want, _ := json.Marshal(a)
		if got, _ := json.Marshal(back); string(got) != string(want) {
			t.Fatalf("got  %s\nwant %s", got, want)
		}
		if again := r.state(a, valuesOf(said), typ); !again.Equal(said) {
			t.Fatalf("a second read differs:\n%s\n%s", again, said)
		}
		if faults := r.validate(valuesOf(said)); len(faults) > 0 && a.Spec.Validate() == nil {
			t.Fatalf("a valid app has faults: %v", faults)
		}
	})
}

// TestUnknownIsNotAFault: whatever is not known yet, no valid app is refused.
func TestUnknownIsNotAFault(t *testing.T) {
	r, typ := app(), schemaOf(t, newApp()).Type().TerraformType(t.Context())
	rapid.Check(t, func(t *rapid.T) {
		a := apps.Filter(func(a *api.App) bool { return a.Spec.Validate() == nil }).Draw(t, "app")
		said := valuesOf(r.state(a, nulls(typ), typ))
		said["id"] = tftypes.NewValue(tftypes.String, nil)
		seed := rapid.String().Draw(t, "seed")
		blurred, err := tftypes.Transform(tftypes.NewValue(typ, map[string]tftypes.Value(said)), func(at *tftypes.AttributePath, v tftypes.Value) (tftypes.Value, error) {
			if known := sha256.Sum256([]byte(at.String() + seed)); v.IsNull() || len(at.Steps()) == 0 || known[0]%5 > 0 {
				return v, nil
			}
			return tftypes.NewValue(v.Type(), tftypes.UnknownValue), nil
		})
		if err != nil {
			t.Skip(err) // an unknown value where the type does not allow one
		}
		if faults := r.validate(valuesOf(blurred)); len(faults) > 0 {
			t.Fatalf("refused: %v\n%s", faults, blurred)
		}
	})
}

func TestAttributePath(t *testing.T) {
	spec := reflect.TypeFor[api.AppSpec]()
	for at, want := range map[string]path.Path{
		"spec.cpu":                    path.Root("cpu"),
		"spec.health.port":            path.Root("health").AtName("port"),
		"spec.ports.http":             path.Root("ports").AtMapKey("http"),
		"spec.sidecars.log.cpu":       path.Root("sidecars").AtMapKey("log").AtName("cpu"),
		`spec.sidecars["a b"].image`:  path.Root("sidecars").AtMapKey("a b").AtName("image"),
		`spec.env["1X"]`:              path.Root("env").AtMapKey("1X"),
		"spec.command[0]":             path.Root("command").AtListIndex(0),
		"spec.placement.require.zone": path.Root("placement").AtName("require").AtMapKey("zone"),
		"meta.name":                   path.Root("name"),
		"meta.namespace":              path.Root("namespace"),
		`meta.labels["a b"]`:          path.Root("labels").AtMapKey("a b"),
		"spec.health.new_field":       path.Root("health"),
		"status":                      path.Empty(),
	} {
		if got := attributePath(at, spec); !got.Equal(want) {
			t.Errorf("%s is at %s, want %s", at, got, want)
		}
	}
}

// TestEveryErrorHasAnAttribute: all that the API's validation finds leads to
// an attribute that exists.
func TestEveryErrorHasAnAttribute(t *testing.T) {
	n, five := -1, 5
	a := &api.App{Meta: api.Meta{Name: "X", Namespace: "Y", Labels: map[string]string{"b ad": "?"}}, Spec: api.AppSpec{
		Container: api.Container{Image: "Not An Image", CPU: "abc", Memory: "64Q", Env: map[string]string{"1X": ""}, Ports: map[string]api.Port{"http": "70000", "Bad": "80"}, Command: []string{""},
			Health: &api.Health{HTTP: "healthz", Port: "nope", Interval: "often", Timeout: "x", GracePeriod: "x", Threshold: &n}},
		Replicas:  &n,
		Sidecars:  map[string]api.Container{"main": {Image: "x"}, "log": {CPU: "1x", Ports: map[string]api.Port{"a": "x"}}},
		Placement: &api.Placement{Require: map[string]string{"?": "?"}, Spread: "?"},
		Update:    &api.Update{MaxParallel: &n, Surge: &n, MinAvailable: &five, HealthyFor: "x", Deadline: "-1s", OnFailure: "shrug"},
		Stop:      &api.Stop{Signal: "TERM", GracePeriod: "x"},
	}}
	s := schemaOf(t, newApp())
	found, _ := errors.AsType[api.Errors](api.Apps.Check(a))
	for _, f := range found {
		at := attributePath(f.Path, reflect.TypeFor[api.AppSpec]())
		if want := "." + dotted(at); !strings.HasSuffix(strings.NewReplacer("[", ".[", "..[", ".[").Replace("."+f.Path), strings.NewReplacer("[", ".[", "..[", ".[").Replace(want)) {
			t.Errorf("%s leads to %s", f.Path, at)
		}
		top, _ := at.Steps()[0].(path.PathStepAttributeName)
		if s.Attributes[string(top)] == nil {
			t.Errorf("%s leads to no attribute: %s", f.Path, at)
		}
	}
	if len(found) < 25 {
		t.Errorf("only %d errors were found: %v", len(found), found)
	}
}

// TestReader: nested objects arrive as they were written.
func TestReader(t *testing.T) {
	o := func(v values) tftypes.Value { return object(v) }
	num := func(n int) tftypes.Value { return tftypes.NewValue(tftypes.Number, n) }
	for name, test := range map[string]struct {
		in   values
		want string // faults, one a line
	}{
		"numbers are strings":  {values{"health": o(values{"http": text("/"), "port": num(80)})}, ""},
		"strings are numbers":  {values{"health": o(values{"http": text("/"), "threshold": text("3")})}, ""},
		"misspelt":             {values{"health": o(values{"htpp": text("/")})}, "health.htpp: there is no such attribute; known are http, tcp, exec, grpc, port, interval, timeout, grace_period, threshold, start, ready, live\n"},
		"misspelt and null":    {values{"stop": o(values{"sig": tftypes.NewValue(tftypes.String, nil)})}, "stop.sig: there is no such attribute; known are signal, pre_stop, grace_period\n"},
		"a fraction":           {values{"health": o(values{"threshold": tftypes.NewValue(tftypes.Number, 1.5)})}, "health.threshold: want a whole number\n"},
		"a string for objects": {values{"sidecars": text("x")}, "sidecars: want a map: { key = value }\n"},
		"a list for an object": {values{"update": tftypes.NewValue(tftypes.Tuple{}, []tftypes.Value{})}, "update: want an object, such as { strategy = … }\n"},
		"deep":                 {values{"sidecars": o(values{"log": o(values{"env": text("x")})})}, "sidecars.log.env: want a map: { key = value }\n"},
		"no bool":              {values{"health": o(values{"tcp": text("perhaps")})}, "health.tcp: want true or false\n"},
	} {
		t.Run(name, func(t *testing.T) {
			_, rd := app().object(test.in)
			var got strings.Builder
			for _, f := range rd.faults {
				got.WriteString(dotted(f.at) + ": " + f.message + "\n")
			}
			if got.String() != test.want {
				t.Errorf("found %q, want %q", got.String(), test.want)
			}
		})
	}
}

// TestAmounts: the same amount in other words is no change; another one is.
func TestAmounts(t *testing.T) {
	sidecar := func(memory string) tftypes.Value {
		return object(values{"log": object(values{"image": text("x"), "memory": text(memory)})})
	}
	prior := values{"cpu": text("500m"), "memory": text("1Gi"), "sidecars": sidecar("1Gi"), "stop": object(values{"grace_period": text("60s")})}
	plan := values{"cpu": text("0.5"), "memory": text("2Gi"), "sidecars": sidecar("1024Mi"), "stop": object(values{"grace_period": text("1m")})}
	want := maps.Clone(prior)
	want["memory"] = text("2Gi")
	keepAmounts(reflect.TypeFor[api.AppSpec](), plan, prior)
	for name := range want {
		if !plan[name].Equal(want[name]) {
			t.Errorf("%s is planned as %s, want %s", name, plan[name], want[name])
		}
	}
}

func TestSentence(t *testing.T) {
	for message, want := range map[string]string{
		"want a whole number":          "Want a whole number.",
		"was it cut when copied?":      "Was it cut when copied?",
		"https://c:1 shows no mercy":   "https://c:1 shows no mercy.",
		"one is wrong: https://c:1 is": "One is wrong: https://c:1 is.",
	} {
		if got := sentence(message); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
