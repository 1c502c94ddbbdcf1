package pod

import (
	"errors"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

var errRefused = errors.New("refused")

// Failures within the grace period make a pod not ready and go no further.
func TestProbeGrace(t *testing.T) {
	h, l := testPod().Spec.Health, life{}
	for i := range 60 {
		at := noon.Add(time.Duration(i) * 500 * time.Millisecond)
		l.note(h, kindHealth, errRefused, at, noon)
		most := 3
		if i >= 20 {
			most = 3 + i - 19
		}
		if l.Live.Failures > most || l.Ready.Failures != i+1 {
			t.Fatalf("%+v after %d checks", l, i)
		}
	}
	if l.dying(h) == "" {
		t.Errorf("no end after the grace: %+v", l)
	}
	l.note(h, kindHealth, nil, noon, noon)
	if (l.Live != tally{Passed: true}) || (l.Ready != tally{Passed: true}) {
		t.Errorf("after a success: %+v", l)
	}
}

// A start check is asked often at first; its failures count once an interval,
// so that a container has the time its author gave it.
func TestStartHasItsTime(t *testing.T) {
	ten := 10
	h := &api.Health{Start: &api.Check{HTTP: "/", Interval: "5s", Threshold: &ten}}
	l, f, at := life{}, checkFact{}, noon
	for l.dying(h) == "" {
		at = f.next(noon, 5*time.Second, false)
		l.note(h, kindStart, errRefused, at, noon)
		f.Count, f.Last = f.Count+1, at
	}
	if took := at.Sub(noon); took < 45*time.Second || took > 51*time.Second {
		t.Errorf("given up after %s", took)
	}
}

// Each check has a count of its own.
func TestChecksCountApart(t *testing.T) {
	three := 3
	h := &api.Health{Ready: &api.Check{HTTP: "/r", Interval: "1s", Threshold: &three}, Live: &api.Check{HTTP: "/l", Interval: "1s", Threshold: &three}}
	var l life
	for i := range 3 {
		at := noon.Add(time.Duration(i) * time.Second)
		l.note(h, kindReady, errRefused, at, noon)
		l.note(h, kindLive, nil, at, noon)
	}
	if l.Ready.Failures != 3 || l.Live.Failures != 0 || l.dying(h) != "" {
		t.Errorf("%+v", l)
	}
	for i := range 3 {
		l.note(h, kindLive, errRefused, noon.Add(time.Duration(10+i)*time.Second), noon)
	}
	if got := l.dying(h); got != "3 live checks failed in a row: refused" {
		t.Errorf("%q", got)
	}
}

// Until the first success checks come often; then at the interval.
func TestProbeNext(t *testing.T) {
	f := checkFact{}
	if got := f.next(noon, 2*time.Second, false); got != noon {
		t.Errorf("the first is at %s", got)
	}
	f.Last = noon
	for count, want := range map[int]time.Duration{1: 100 * time.Millisecond, 2: 200 * time.Millisecond, 5: 1600 * time.Millisecond, 6: 2 * time.Second, 50: 2 * time.Second} {
		f.Count = count
		if got := f.next(noon, 2*time.Second, false).Sub(noon); got != want {
			t.Errorf("after %d checks: %s, want %s", count, got, want)
		}
	}
	f.Count = 1
	if got := f.next(noon, 2*time.Second, true).Sub(noon); got != 2*time.Second {
		t.Errorf("once healthy: %s", got)
	}
}
