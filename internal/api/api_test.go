package api

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestKinds walks the table of kinds: what every kind must have.
func TestKinds(t *testing.T) {
	names := map[string]bool{}
	for _, k := range Kinds {
		i := k.Info()
		t.Run(i.Name, func(t *testing.T) {
			for _, word := range append([]string{strings.ToLower(i.Name), i.Plural}, i.Aliases...) {
				got, err := Lookup(word)
				if err != nil || got.Info().Name != i.Name {
					t.Errorf("Lookup(%q) = %v, %v", word, got, err)
				}
			}
			if names[i.Plural] || i.Doc == "" || i.Scope == 0 || len(k.Header(true)) == 0 {
				t.Errorf("kind is incomplete or its plural is taken: %+v", i)
			}
			names[i.Plural] = true
			checkFields(t, i.Name+".spec", i.Spec, map[reflect.Type]bool{})

			o := k.New()
			if len(k.Row(o, true)) != len(k.Header(true)) {
				t.Error("a zero object has no table row")
			}
			b, err := json.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			back := k.New()
			if err := json.Unmarshal(b, back); err != nil || !reflect.DeepEqual(o, back) {
				t.Errorf("does not survive JSON: %s (%v)", b, err)
			}
			errs, ok := k.Check(o).(Errors)
			if !ok || !slices.ContainsFunc(errs, func(f FieldError) bool { return f.Path == "meta.name" }) {
				t.Errorf("a zero object validates, or without a located message: %v", errs)
			}
		})
	}
}

// checkFields requires a snake_case name and a doc on every declared field.
func checkFields(t *testing.T, path string, typ reflect.Type, seen map[reflect.Type]bool) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Map || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || seen[typ] || typ.PkgPath() != reflect.TypeFor[Meta]().PkgPath() {
		return
	}
	seen[typ] = true
	for f := range typ.Fields() {
		if f.Anonymous {
			checkFields(t, path, f.Type, seen)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name != strings.ToLower(name) || strings.Contains(name, "-") {
			t.Errorf("%s.%s: json name %q is not snake_case", path, f.Name, name)
		}
		checkFields(t, path+"."+name, f.Type, seen)
	}
}

// TestDeclaredFieldsAreDocumented covers the kinds users write.
func TestDeclaredFieldsAreDocumented(t *testing.T) {
	for _, k := range Kinds {
		if i := k.Info(); !i.Derived {
			undocumented(t, i.Name, i.Spec)
		}
	}
}

func undocumented(t *testing.T, path string, typ reflect.Type) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Map || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || typ.PkgPath() != reflect.TypeFor[Meta]().PkgPath() {
		return
	}
	for f := range typ.Fields() {
		if !f.Anonymous && f.Tag.Get("doc") == "" {
			t.Errorf("%s.%s has no doc", path, f.Name)
		}
		undocumented(t, path+"."+f.Name, f.Type)
	}
}

// TestEffectiveHasNoUnsetLeaf: defaults are real, so an upgrade changes no running app.
func TestEffectiveHasNoUnsetLeaf(t *testing.T) {
	eff := AppSpec{Container: Container{Image: "nginx", Health: &Health{HTTP: "/"}}}.WithDefaults()
	for name, unset := range map[string]bool{
		"cpu": eff.CPU == "", "memory": eff.Memory == "", "replicas": eff.Replicas == nil,
		"update.max_parallel": eff.Update.MaxParallel == nil, "update.surge": eff.Update.Surge == nil,
		"update.min_available": eff.Update.MinAvailable == nil, "update.healthy_for": eff.Update.HealthyFor == "",
		"update.deadline": eff.Update.Deadline == "", "update.on_failure": eff.Update.OnFailure == "",
		"health.interval": eff.Health.Interval == "", "health.timeout": eff.Health.Timeout == "",
		"health.grace_period": eff.Health.GracePeriod == "", "health.threshold": eff.Health.Threshold == nil,
		"stop.grace_period": eff.Stop.GracePeriod == "",
	} {
		if unset {
			t.Errorf("effective %s is unset", name)
		}
	}
}

// TestDefaultLeavesSpecAlone: the spec stays sparse and shares nothing with the effective one.
func TestDefaultLeavesSpecAlone(t *testing.T) {
	app := &App{Spec: AppSpec{Container: Container{Image: "nginx"}, Sidecars: map[string]Container{"log": {Image: "vector"}}}}
	before, _ := json.Marshal(app.Spec)
	Apps.Default(app)
	app.Effective.Sidecars["more"] = Container{}
	if after, _ := json.Marshal(app.Spec); string(after) != string(before) {
		t.Errorf("spec became %s, was %s", after, before)
	}
	if app.Effective.Sidecars["log"].CPU != DefaultCPU {
		t.Error("a sidecar has no default cpu")
	}
}

func TestAppValidateLocates(t *testing.T) {
	n, five := -1, 5
	spec := AppSpec{
		Container: Container{Image: "Not An Image", CPU: "abc", Memory: "64Q", Env: map[string]string{"1X": ""}, Ports: map[string]Port{"http": "70000", "Bad": "80"}, Health: &Health{HTTP: "healthz", Port: "nope", Interval: "often"}},
		Replicas:  &n,
		Sidecars:  map[string]Container{"main": {Image: "x"}, "log": {Image: "", CPU: "1x"}},
		Update:    &Update{MaxParallel: &n, Surge: &n, MinAvailable: &five, Deadline: "-1s", OnFailure: "shrug"},
		Stop:      &Stop{Signal: "TERM"},
	}
	errs, _ := spec.Validate().(Errors)
	var got []string
	for _, e := range errs {
		got = append(got, e.Path)
	}
	for _, want := range []string{"image", "cpu", "memory", "env[\"1X\"]", "ports.http", "ports.Bad", "replicas", "health.http", "health.port",
		"health.interval", "sidecars.main", "sidecars.log.image", "sidecars.log.cpu", "update.max_parallel", "update.surge",
		"update.min_available", "update.deadline", "update.on_failure", "stop.signal"} {
		if !slices.Contains(got, want) {
			t.Errorf("no error at %s; got %v", want, got)
		}
	}
}

// TestBadZoneHidesNoBadSchedule: both are said at once.
func TestBadZoneHidesNoBadSchedule(t *testing.T) {
	err := JobSpec{PodTemplate: PodTemplate{Container: Container{Image: "tool:1"}}, Schedule: "61 * * * *", TimeZone: "Mars/Olympus"}.Validate()
	errs, _ := err.(Errors)
	var at []string
	for _, e := range errs {
		at = append(at, e.Path)
	}
	if want := []string{"time_zone", "schedule"}; !slices.Equal(at, want) {
		t.Errorf("faults at %v, want %v: %v", at, want, err)
	}
}

// TestNoProcessCanBeGivenNUL: wherever words go to a process.
func TestNoProcessCanBeGivenNUL(t *testing.T) {
	bad := []string{"sh", "a\x00b"}
	spec := AppSpec{
		Container: Container{
			Image: "nginx:1", Command: bad, Args: bad, Env: map[string]string{"A": "a\x00b", "B": "fine"}, Health: &Health{Live: &Check{Exec: bad}},
		},
		Stop: &Stop{PreStop: bad},
	}
	var got []string
	errs, _ := spec.Validate().(Errors)
	for _, e := range errs {
		if strings.Contains(e.Message, "NUL") {
			got = append(got, e.Path)
		}
	}
	if want := []string{"command[1]", "args[1]", "env.A", "health.live.exec[1]", "stop.pre_stop[1]"}; !slices.Equal(got, want) {
		t.Errorf("errors at %q, want %q", got, want)
	}
}

// TestNodesPortsAreKeptFromServices: a pod that shares the node's network stays
// off the ports that services have; any other pod may have them.
func TestNodesPortsAreKeptFromServices(t *testing.T) {
	for _, shares := range []bool{true, false} {
		spec := AppSpec{
			Container: Container{Image: "nginx:1", Ports: map[string]Port{"low": "29999", "first": "30000"}}, HostNetwork: &shares,
			Sidecars: map[string]Container{"log": {Image: "vector:1", Ports: map[string]Port{"last": "32767/udp", "high": "32768"}}},
		}
		var got []string
		errs, _ := spec.Validate().(Errors)
		for _, e := range errs {
			got = append(got, e.Path)
		}
		if want := []string{"ports.first", "sidecars.log.ports.last"}; shares && !slices.Equal(got, want) || !shares && got != nil {
			t.Errorf("host_network = %v: errors at %v", shares, got)
		}
	}
}

// TestRevisionFollowsTemplate: what pods run makes the revision, and nothing else does.
func TestRevisionFollowsTemplate(t *testing.T) {
	base := AppSpec{Container: Container{Image: "nginx:1"}}
	rev := func(change func(*AppSpec)) string {
		s := Clone(base)
		change(&s)
		return s.WithDefaults().Revision(nil, time.Time{})
	}
	same := rev(func(*AppSpec) {})
	three := 3
	if rev(func(s *AppSpec) { s.Replicas = &three }) != same || rev(func(s *AppSpec) { s.Update = &Update{Surge: &three} }) != same {
		t.Error("replicas or update policy change the revision")
	}
	for name, change := range map[string]func(*AppSpec){
		"image":   func(s *AppSpec) { s.Image = "nginx:2" },
		"env":     func(s *AppSpec) { s.Env = map[string]string{"A": "1"} },
		"sidecar": func(s *AppSpec) { s.Sidecars = map[string]Container{"log": {Image: "x"}} },
		"health":  func(s *AppSpec) { s.Health = &Health{HTTP: "/"} },
	} {
		if rev(change) == same {
			t.Errorf("%s does not change the revision", name)
		}
	}
}

func TestPhaseOnlyForward(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := []Phase{"", PhasePending, PhaseStarting, PhaseRunning, PhaseStopping, PhaseSucceeded, PhaseFailed, PhaseLost}
		a, b := rapid.SampledFrom(all).Draw(t, "a"), rapid.SampledFrom(all).Draw(t, "b")
		if a.MayBecome(b) && b.MayBecome(a) && phaseOrder[a] != phaseOrder[b] {
			t.Fatalf("%q and %q each may become the other", a, b)
		}
		if a.Ended() && a != b && a.MayBecome(b) {
			t.Fatalf("ended pod in %q may become %q", a, b)
		}
	})
}

func TestUnits(t *testing.T) {
	for in, want := range map[string]int64{"250m": 250, "0.5": 500, "2": 2000, "1.25": 1250} {
		if got, err := ParseCPU(in); err != nil || got != want {
			t.Errorf("ParseCPU(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for in, want := range map[string]int64{"64Mi": 64 << 20, "1.5Gi": 3 << 29, "500M": 500e6, "1k": 1000, "4096": 4096} {
		if got, err := ParseMemory(in); err != nil || got != want {
			t.Errorf("ParseMemory(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "abc", "-1", "1e3", "m", "0x1", "NaN", "1.2345", " 1"} {
		if n, err := ParseCPU(in); err == nil {
			t.Errorf("ParseCPU(%q) = %d", in, n)
		}
	}
	for _, in := range []string{"", "Mi", "-1Mi", "1MiB", "1 Gi", "inf", "9999999999999T"} {
		if n, err := ParseMemory(in); err == nil {
			t.Errorf("ParseMemory(%q) = %d", in, n)
		}
	}
}

func FuzzUnits(f *testing.F) {
	for _, s := range []string{"250m", "0.5", "64Mi", "1.5Gi", "53/udp", "80", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseCPU(s); err == nil && n < 0 {
			t.Errorf("ParseCPU(%q) = %d", s, n)
		}
		if n, err := ParseMemory(s); err == nil && n < 0 {
			t.Errorf("ParseMemory(%q) = %d", s, n)
		}
		if n, proto, err := Port(s).Parse(); err == nil && (n < 1 || n > 65535 || proto == "") {
			t.Errorf("Port(%q).Parse() = %d %q", s, n, proto)
		}
	})
}

func TestClone(t *testing.T) {
	a := AppSpec{Container: Container{Command: []string{"a"}, Env: map[string]string{"k": "v"}, Health: &Health{HTTP: "/"}}}
	b := Clone(a)
	b.Command[0], b.Env["k"], b.Health.HTTP = "b", "w", "/x"
	if a.Command[0] != "a" || a.Env["k"] != "v" || a.Health.HTTP != "/" {
		t.Errorf("clone shares memory: %+v", a)
	}
}

// TestDrainWithoutItsEnd: a leader of an earlier version does not write when the
// drain stops what is left, and a zero time is no word on it.
func TestDrainWithoutItsEnd(t *testing.T) {
	d := DrainStatus{Phase: DrainRunning, Left: 2}
	if got := d.Summary(); got != "draining: 2 pods are left" {
		t.Error(got)
	}
	d.StopsAt = time.Date(2026, 1, 1, 12, 30, 0, 0, time.UTC)
	if got := d.Summary(); got != "draining: 2 pods are left; they are stopped all the same at 12:30:00 UTC" {
		t.Error(got)
	}
}
