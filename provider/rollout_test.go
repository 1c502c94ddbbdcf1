package provider

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestExplain is what a user reads when an apply fails.
func TestExplain(t *testing.T) {
	three := 3
	app := func(image string, generation int64) *api.App {
		return &api.App{
			Kind: "App", Meta: api.Meta{Namespace: "shop", Name: "web", Generation: generation},
			Spec:      api.AppSpec{Container: api.Container{Image: image}},
			Effective: api.AppSpec{Replicas: &three},
			Status:    api.AppStatus{Ready: 3, Updated: 1},
		}
	}
	crash := &api.Cause{Reason: "crash_loop", Message: "main exited with code 137 after 2s, 3 times in a row", Pod: "web-abc123-0", Node: "w2",
		Container: "main", ExitCode: new(137), OOM: true, Log: []string{"listening on :80", "panic: missing DATABASE_URL"}}
	sidecar := &api.Cause{Reason: "cannot_start", Message: "log cannot start: no such program: /bin/v", Pod: "web-abc123-1", Node: "w1", Container: "log"}
	nowhere := &api.Cause{Reason: "unschedulable", Message: "no node fits web-abc123-0: 2 have less than 4 cores free, 1 is cordoned"}
	back := func(image string, phase api.RolloutPhase) *api.App {
		a := app(image, 3)
		a.Status.Rollout = api.Rollout{Generation: 3, Phase: phase, Reason: api.RollbackOf(2)}
		return a
	}
	golden := &txtar.Archive{}
	for _, test := range []struct {
		name string
		app  *api.App
		r    *api.Rollout
	}{
		{"rolled back", back("nginx:1.28", api.RolloutComplete), &api.Rollout{Generation: 2, Phase: api.RolloutRolledBack, Image: "nginx:crash", Cause: crash}},
		{"being rolled back", back("nginx:1.28", api.RolloutInProgress), &api.Rollout{Generation: 2, Phase: api.RolloutRolledBack, Image: "nginx:crash", Cause: crash}},
		{"rolled back, same image", back("nginx:1.28", api.RolloutComplete), &api.Rollout{Generation: 2, Phase: api.RolloutRolledBack, Image: "nginx:1.28", Cause: sidecar}},
		{"first rollout", app("nginx:crash", 1), &api.Rollout{Generation: 1, Phase: api.RolloutFailed, Image: "nginx:crash", Cause: crash}},
		{"nothing to roll back to", app("nginx:2", 2), &api.Rollout{Generation: 2, Phase: api.RolloutFailed, Image: "nginx:2", Cause: nowhere}},
		{"paused", app("nginx:2", 2), &api.Rollout{Generation: 2, Phase: api.RolloutPaused, Image: "nginx:2"}},
	} {
		f := explain(test.app, test.r)
		text := fmt.Sprintf("Error: %s\n\n%s\n\nstate: %s\n", f.summary, f.detail, map[bool]string{true: "prior", false: "new"}[f.reverted])
		golden.Files = append(golden.Files, txtar.File{Name: test.name, Data: []byte(text)})
	}
	const file = "testdata/explain.txtar"
	got := txtar.Format(golden)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(file); err != nil || string(want) != string(got) {
		t.Errorf("%s differs (%v): -update rewrites it; got\n%s", file, err, got)
	}
}

// TestOutcome: which states of an app end the wait for one generation.
func TestOutcome(t *testing.T) {
	status := func(observed int64, current api.Rollout, history ...api.Rollout) *api.App {
		return &api.App{Status: api.AppStatus{ObservedGeneration: observed, Rollout: current, History: history}}
	}
	canary := api.Rollout{Generation: 2, Phase: api.RolloutInProgress, HeldSince: time.Unix(1, 0)}
	two := func(p api.RolloutPhase) api.Rollout { return api.Rollout{Generation: 2, Phase: p} }
	for name, test := range map[string]struct {
		app   *api.App
		ended bool
		phase api.RolloutPhase
	}{
		"nothing yet":            {status(0, api.Rollout{}), false, ""},
		"the one before":         {status(1, api.Rollout{Generation: 1, Phase: api.RolloutComplete}), false, ""},
		"in progress":            {status(2, two(api.RolloutInProgress)), false, api.RolloutInProgress},
		"complete":               {status(2, two(api.RolloutComplete)), true, api.RolloutComplete},
		"canary holds":           {status(2, canary), true, api.RolloutInProgress},
		"contents were put back": {status(2, api.Rollout{Generation: 2, Phase: api.RolloutComplete, Reason: api.RollbackOf(2)}, two(api.RolloutRolledBack), two(api.RolloutComplete)), true, api.RolloutRolledBack},
		"a later restart":        {status(2, two(api.RolloutInProgress), two(api.RolloutComplete)), false, api.RolloutInProgress},
		"rolled back":            {status(2, two(api.RolloutRolledBack)), true, api.RolloutRolledBack},
		"rollback is under way":  {status(3, api.Rollout{Generation: 3, Phase: api.RolloutInProgress}, two(api.RolloutRolledBack)), true, api.RolloutRolledBack},
		"superseded":             {status(3, api.Rollout{Generation: 3, Phase: api.RolloutInProgress}, two(api.RolloutSuperseded)), true, ""},
		"forgotten":              {status(30, api.Rollout{Generation: 30, Phase: api.RolloutInProgress}), true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			ended, how := outcome(test.app, 2)
			phase := api.RolloutPhase("")
			if how != nil {
				phase = how.Phase
			}
			if ended != test.ended || phase != test.phase {
				t.Errorf("ended %v as %q, want %v as %q", ended, phase, test.ended, test.phase)
			}
		})
	}
}

// TestStuck: a plan warns of a rollout that ended badly where the cluster has
// what is declared, since it shows no change then.
func TestStuck(t *testing.T) {
	app := func(observed int64, phase api.RolloutPhase) *api.App {
		return &api.App{
			Meta:      api.Meta{Namespace: "shop", Name: "web", Generation: 2},
			Spec:      api.AppSpec{Container: api.Container{Image: "nginx:2"}},
			Effective: api.AppSpec{Replicas: new(3)},
			Status:    api.AppStatus{ObservedGeneration: observed, Rollout: api.Rollout{Generation: observed, Phase: phase}},
		}
	}
	earlier, later := map[string]string{"config/web": "a"}, map[string]string{"config/web": "b"}
	back := func(declared map[string]string) *api.App {
		a := app(2, api.RolloutComplete)
		a.Status.History = []api.Rollout{{Generation: 2, Phase: api.RolloutRolledBack, Reason: "change of config/web", Cause: &api.Cause{}, Contents: later, Asked: api.Asked(later, time.Time{})}}
		a.Status.Rollout.Reason, a.Status.Rollout.Contents, a.Status.Rollout.Asked = api.RollbackOf(2), earlier, api.Asked(declared, time.Time{})
		return a
	}
	for name, test := range map[string]struct {
		app  *api.App
		want string
	}{
		"contents put back":     {back(earlier), ""},
		"contents as they were": {back(later), "App shop/web: rollout after a change of config/web failed and was rolled back"},
		"paused":                {app(2, api.RolloutPaused), "App shop/web: rollout of nginx:2 failed and is paused"},
		"failed":                {app(2, api.RolloutFailed), "App shop/web: rollout of nginx:2 failed"},
		"complete":              {app(2, api.RolloutComplete), ""},
		"in progress":           {app(2, api.RolloutInProgress), "App shop/web: its rollout still goes on"},
		"not looked at":         {app(1, api.RolloutPaused), "App shop/web: its rollout still goes on"},
		"being put back":        {app(2, api.RolloutRolledBack), ""},
		"nothing seen yet":      {app(0, ""), "App shop/web: its rollout still goes on"},
	} {
		got := ""
		if f := stuck(test.app); f != nil {
			got = f.summary
		}
		if got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// TestShelf: many reads cost few requests, a write is seen, and what the list
// lacks is asked for.
func TestShelf(t *testing.T) {
	var lists, gets atomic.Int64
	c := client.InProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch name, single := strings.CutPrefix(r.URL.Path, "/v1/namespaces/shop/services/"); {
		case !single:
			lists.Add(1)
			fmt.Fprint(w, `{"items":[`)
			for i := range 100 {
				fmt.Fprintf(w, `%s{"meta":{"name":"svc-%d","namespace":"shop"}}`, []string{"", ","}[min(i, 1)], i)
			}
			fmt.Fprint(w, `],"revision":7}`)
		case name == "late":
			gets.Add(1)
			fmt.Fprint(w, `{"meta":{"name":"late","namespace":"shop"}}`)
		case strings.HasPrefix(name, "svc-"):
			gets.Add(1)
			fmt.Fprintf(w, `{"meta":{"name":%q,"namespace":"shop","generation":2}}`, name)
		default:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"status":404,"detail":"not found"}`)
		}
	}))
	run := &cluster{client: c}
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			if o, err := shelfOf(run, api.Services, "shop").get(t.Context(), fmt.Sprintf("svc-%d", i)); err != nil || o.Meta.Name != fmt.Sprintf("svc-%d", i) {
				t.Errorf("svc-%d: %v %v", i, o, err)
			}
		})
	}
	all.Wait()
	if lists.Load() != 1 || gets.Load() != readsBeforeList {
		t.Errorf("100 reads took %d lists and %d gets", lists.Load(), gets.Load())
	}
	s := shelfOf(run, api.Services, "shop")
	s.wrote("svc-5")
	if o, err := s.get(t.Context(), "svc-5"); err != nil || o.Meta.Generation != 2 {
		t.Errorf("after a write the list still answers: %v %v", o, err)
	}
	if o, err := s.get(t.Context(), "late"); err != nil || o.Meta.Name != "late" {
		t.Errorf("what the list lacks: %v %v", o, err)
	}
	if _, err := s.get(t.Context(), "nobody"); !api.Is(err, api.NotFound) {
		t.Errorf("what does not exist: %v", err)
	}
}

// TestShelfWithoutList: a list that fails leaves getting one by one.
func TestShelfWithoutList(t *testing.T) {
	c := client.InProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/services") {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"status":403,"detail":"no lists"}`)
			return
		}
		fmt.Fprint(w, `{"meta":{"name":"web","namespace":"shop"}}`)
	}))
	s := shelfOf(&cluster{client: c}, api.Services, "shop")
	for range 6 {
		if _, err := s.get(t.Context(), "web"); err != nil {
			t.Error(err)
		}
	}
}
