package controller

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/internal/client"
)

func (w *world) job(name string) *api.Job {
	j, err := client.Of(w.client, api.Jobs).Get(w.ctx, w.ns, name)
	if err != nil && !api.Is(err, api.NotFound) {
		w.t.Fatal(err)
	}
	return j
}

// run declares a job.
func (w *world) run(name, spec string) *api.Job {
	w.t.Helper()
	j := new(api.Job)
	body := json.RawMessage(fmt.Sprintf(`{"spec":%s}`, spec))
	if err := w.client.Call(w.ctx, http.MethodPut, client.Path(api.Jobs.Info(), w.ns, name), nil, body, j); err != nil {
		w.t.Fatal(err)
	}
	return j
}

// ran waits until the newest run of a job has ended, and returns it.
func (w *world) ran(name string, generation int64, within time.Duration) api.Run {
	w.t.Helper()
	var run api.Run
	w.eventually(fmt.Sprintf("a run of generation %d of %s ends", generation, name), within, func() bool {
		st := w.job(name).Status
		if st.ObservedGeneration < generation || len(st.Runs) == 0 {
			return false
		}
		run = st.Runs[0]
		return run.Phase.Ended() && run.Active == 0
	})
	return run
}

func (w *world) podsOf(job string) (out []*api.Pod) {
	for _, p := range w.pods() {
		if p.Spec.Job == job {
			out = append(out, p)
		}
	}
	return out
}

func TestLifeOfAJob(t *testing.T) {
	inWorld(t, 3, nil, func(w *world) {
		run := w.ran("mend", w.run("mend", `{"image":"good:1","completions":5,"parallelism":2}`).Meta.Generation, time.Minute)
		if run.Name != "mend-1" || run.Phase != api.RunSucceeded || run.Succeeded != 5 || run.Failed != 0 || len(run.Pods) != 5 {
			t.Fatalf("%+v", run)
		}
		for _, p := range w.podsOf("mend") {
			if !p.Spec.Once || p.Spec.Env[api.IndexEnv] == "" || p.Status.Phase != api.PhaseSucceeded {
				t.Errorf("%s: %+v", p.Meta.Name, p.Spec)
			}
		}
		// Neither time nor what is no part of the work runs it again; triggers do.
		w.run("mend", `{"image":"good:1","completions":5,"parallelism":2,"keep":1}`)
		time.Sleep(time.Hour)
		if st := w.job("mend").Status; len(st.Runs) != 1 || st.ObservedGeneration != 2 {
			t.Fatalf("%+v", st)
		}
		run = w.ran("mend", w.run("mend", `{"image":"good:1","triggers":{"schema":"2"},"keep":1}`).Meta.Generation, time.Minute)
		if run.Name != "mend-3" || run.Phase != api.RunSucceeded {
			t.Fatalf("%+v", run)
		}
		w.eventually("only the pods of the run that is kept", time.Minute, func() bool { return len(w.podsOf("mend")) == 1 })
		if err := client.Of(w.client, api.Jobs).Delete(w.ctx, w.ns, "mend", ""); err != nil {
			t.Fatal(err)
		}
		w.eventually("gone", 10*time.Second, func() bool { return w.job("mend") == nil && len(w.pods()) == 0 })
	})
}

// A job that fails says why, within its retries; the next change tries again.
func TestFailedJob(t *testing.T) {
	inWorld(t, 2, nil, func(w *world) {
		w.run("mend", `{"image":"bad:1"}`)
		run := w.ran("mend", 1, 20*time.Second)
		c := run.Cause
		if run.Phase != api.RunFailed || run.Failed != 3 || c == nil || c.Pod != "mend-1-0-2" || c.Node == "" || *c.ExitCode != 7 || len(c.Log) != 1 {
			t.Fatalf("%+v %+v", run, c)
		}
		if len(w.podsOf("mend")) != 3 {
			t.Error("the pods of a failed run are gone, and their logs with them")
		}
		if run := w.ran("mend", w.run("mend", `{"image":"bad:1","retries":0}`).Meta.Generation, 20*time.Second); run.Name != "mend-2" || run.Failed != 1 {
			t.Fatalf("%+v", run)
		}
		if !has(w, "Job", "mend", "run_failed") || !has(w, "Job", "mend", "pod_failed") {
			t.Error("no event tells of it")
		}
	})
}

// A node that dies takes no retry with it.
func TestJobOutlivesItsNode(t *testing.T) {
	inWorld(t, 2, nil, func(w *world) {
		w.run("mend", `{"image":"slow:1","retries":0}`)
		var node string
		w.eventually("it runs", 10*time.Second, func() bool {
			for _, p := range w.podsOf("mend") {
				node = p.Spec.Node
				return p.Status.Phase == api.PhaseRunning
			}
			return false
		})
		w.machine[node].power(false)
		w.hearsay.set(node, Dead, false)
		run := w.ran("mend", 1, 5*time.Minute)
		if run.Phase != api.RunSucceeded || run.Failed != 0 || len(run.Pods) != 2 {
			t.Fatalf("%+v", run)
		}
	})
}

// A pod that somebody deletes, as a drain does, is tried again elsewhere.
func TestJobPodIsAskedToStop(t *testing.T) {
	inWorld(t, 2, nil, func(w *world) {
		w.run("mend", `{"image":"slow:1","retries":0}`)
		w.eventually("it runs", 10*time.Second, func() bool { return len(w.podsOf("mend")) == 1 && w.pods()[0].Status.Phase == api.PhaseRunning })
		if err := client.Of(w.client, api.Pods).Delete(w.ctx, w.ns, "mend-1-0-0", ""); err != nil {
			t.Fatal(err)
		}
		if run := w.ran("mend", 1, 5*time.Minute); run.Phase != api.RunSucceeded || run.Failed != 0 || len(run.Pods) != 2 {
			t.Fatalf("%+v", run)
		}
	})
}

func TestJobIsAskedToRun(t *testing.T) {
	inWorld(t, 2, nil, func(w *world) {
		jobs := client.Of(w.client, api.Jobs)
		w.run("mend", `{"image":"good:1","schedule":"0 0 1 1 *"}`)
		ask := func(word string) {
			t.Helper()
			j := w.job("mend")
			j.Status.Intent = api.JobIntent{Run: word, At: api.Now()}
			if _, err := jobs.PutPart(w.ctx, j, "intent"); err != nil {
				t.Fatal(err)
			}
		}
		ask("now")
		if run := w.ran("mend", 1, time.Minute); run.Name != "mend-now" || run.Phase != api.RunSucceeded {
			t.Fatalf("%+v", run)
		}
		ask("now") // the same is no other
		time.Sleep(time.Minute)
		ask("NOT A NAME")
		time.Sleep(time.Minute)
		if st := w.job("mend").Status; len(st.Runs) != 1 || st.Asked != "NOT A NAME" {
			t.Fatalf("%+v", st)
		}
	})
}

// jobLife takes jobs through all that happens to them.
func jobLife(w *world) {
	if run := w.ran("mend", w.run("mend", `{"image":"good:1","completions":4,"parallelism":2}`).Meta.Generation, 10*time.Minute); run.Phase != api.RunSucceeded || run.Succeeded != 4 {
		w.t.Fatalf("%+v", run)
	}
	if run := w.ran("mend", w.run("mend", `{"image":"bad:1","retries":1}`).Meta.Generation, 10*time.Minute); run.Phase != api.RunFailed || run.Failed != 2 || run.Cause == nil {
		w.t.Fatalf("%+v", run)
	}
	w.run("mend", `{"image":"slow:1"}`)
	time.Sleep(20 * time.Second)
	if run := w.ran("mend", w.run("mend", `{"image":"good:2","keep":2}`).Meta.Generation, 10*time.Minute); run.Phase != api.RunSucceeded || run.Generation != 4 {
		w.t.Fatalf("%+v", run)
	}
	w.eventually("two runs and their pods", 5*time.Minute, func() bool {
		runs := map[string]bool{}
		for _, p := range w.podsOf("mend") {
			runs[p.Spec.Run] = true
		}
		return len(w.job("mend").Status.Runs) <= 2 && len(runs) <= 2
	})
	if err := client.Of(w.client, api.Jobs).Delete(w.ctx, w.ns, "mend", ""); err != nil {
		w.t.Fatal(err)
	}
	w.eventually("gone", 5*time.Minute, func() bool { return w.job("mend") == nil && len(w.pods()) == 0 })
}

// TestEachTickOnce: a cron job whose leaders die and whose leader's clock
// jumps back and forth. Each tick of the time that passed has exactly one run,
// whose pods are its only ones, or is reported as skipped, and why.
func TestEachTickOnce(t *testing.T) {
	campaign(t)
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 7))
			s := &sieve{rng: rand.New(rand.NewPCG(seed, 8)), die: 3 + int(seed%5), lag: time.Duration(seed%3) * 300 * time.Millisecond}
			concurrency := []string{"forbid", "allow", "replace"}[seed%3]
			wrap := func(w *world, h http.Handler) http.Handler { s.next = h; return s }
			inDisturbedWorld(t, 3, s, wrap, func(w *world) { eachTickOnce(w, rng, concurrency) })
		})
	}
}

func eachTickOnce(w *world, rng *rand.Rand, concurrency string) {
	t := w.t
	image := []string{"good:1", "slow:1", "bad:1"}[rng.IntN(3)]
	job := w.run("tick", fmt.Sprintf(`{"image":%q,"schedule":"* * * * *","concurrency":%q,"keep":100,"retries":0,"catch_up":"90s"}`, image, concurrency))
	begun := map[string]int{} // pods of each run that were ever seen, by attempt 0
	begins := map[string]string{}
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		pods := client.Of(w.client, api.Pods)
		for ev, err := range pods.Watch(w.ctx, w.ns, client.By("job", "tick"), 0) {
			if err != nil {
				return
			}
			if p := ev.Object; ev.Type == api.EventPut && p.Meta.Generation == 1 && begins[p.Meta.Name] != p.Meta.UID {
				begins[p.Meta.Name] = p.Meta.UID
				begun[p.Meta.Name]++
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	for range 25 {
		time.Sleep(time.Duration(20+rng.IntN(60)) * time.Second)
		switch rng.IntN(6) {
		case 0: // forth
			w.skew.Store(int64(time.Duration(rng.IntN(600)) * time.Second))
		case 1: // back
			w.skew.Store(-int64(time.Duration(rng.IntN(300)) * time.Second))
		case 2:
			w.skew.Store(0)
		}
	}
	w.skew.Store(0)
	// Past the furthest that a clock was ahead, all is in step again.
	time.Sleep(15 * time.Minute)
	close(stop)
	w.run("tick", fmt.Sprintf(`{"image":%q,"schedule":"* * * * *","concurrency":%q,"keep":100,"retries":0,"catch_up":"90s","suspend":true}`, image, concurrency))
	<-ended
	st := w.job("tick").Status
	ticks := map[time.Time]string{}
	account := func(at time.Time, what string) {
		if was, twice := ticks[at]; twice {
			t.Errorf("tick %s is accounted twice: %s and %s", at.Format(time.TimeOnly), was, what)
		}
		ticks[at] = what
	}
	skipped, ran := 0, 0
	for _, run := range st.Runs {
		if run.Phase == api.RunSkipped {
			at := run.ScheduledFor
			for range run.Ticks {
				account(at, "skipped: "+run.Reason)
				at = at.Add(time.Minute)
				skipped++
			}
			if run.Reason == "" || !at.Add(-time.Minute).Equal(run.Until) {
				t.Errorf("%+v", run)
			}
			continue
		}
		account(run.ScheduledFor, run.Name)
		ran++
		if want := "tick-" + run.ScheduledFor.Format("200601021504"); run.Name != want {
			t.Errorf("run %s of tick %s", run.Name, run.ScheduledFor)
		}
	}
	first := job.Meta.WrittenAt.Truncate(time.Minute).Add(time.Minute)
	for at := first; !at.After(st.Ticked); at = at.Add(time.Minute) {
		if ticks[at] == "" {
			t.Errorf("nothing is known of tick %s", at.Format(time.TimeOnly))
		}
		delete(ticks, at)
	}
	for at, what := range ticks {
		t.Errorf("%s is no tick: %s", at, what)
	}
	for pod, n := range begun {
		if n > 1 {
			t.Errorf("%s was made %d times", pod, n)
		}
		if !strings.HasSuffix(pod, "-0-0") {
			t.Errorf("a tick ran twice: %s", pod)
		}
	}
	if st.Ticked.Before(time.Now().Add(-2*time.Minute)) || ran == 0 {
		t.Errorf("it stopped at %s: %d ran, %d were skipped", st.Ticked, ran, skipped)
	}
}
