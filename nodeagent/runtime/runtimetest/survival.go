package runtimetest

import (
	"errors"
	"path/filepath"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/lease"
)

func (s *suite) agentRestart() {
	stays, ends := s.run("forever"), s.run(s.wait(2), "exit=4")
	pid := s.status(stays).PID
	s.Reopen(s.T)
	if st := s.status(stays); st.State != runtime.Running || st.PID != pid {
		s.Errorf("was %d: %+v", pid, st)
	}
	if e := s.exit(ends); e.Code != 4 {
		s.Errorf("exit %+v", e)
	}
}

// runtimeCrash: whatever happens while the runtime is gone is known when it is back.
func (s *suite) runtimeCrash() {
	talks := s.container("print=before", s.wait(8), "print=after", "forever")
	s.start(s.create(talks))
	s.printed(talks, "before")
	eats := s.container(s.wait(4), "oom")
	eats.MemoryLimit = 32 << 20
	s.start(s.create(eats))
	ends := s.run(s.wait(4), "exit=5")
	ended := s.run("exit=6")
	s.exit(ended)
	created := s.create(s.container("exit=7"))
	events, err := s.Runtime.Events(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	pid := s.status(talks.ID).PID

	s.Crash(s.T, func() {
		deadline := time.After(patience)
		for open := true; open; {
			select {
			case _, open = <-events:
			case <-deadline:
				s.Fatal("events go on without a runtime")
			}
		}
		if _, err := s.Runtime.Status(s.Context(), talks.ID); err == nil || errors.Is(err, runtime.ErrNotFound) {
			s.Errorf("with the runtime gone, status is %v", err)
		}
		s.printed(talks, "after")
		time.Sleep(s.Beat)
	})

	if st := s.status(talks.ID); st.State != runtime.Running || st.PID != pid {
		s.Errorf("was %d: %+v", pid, st)
	}
	for id, want := range map[string]runtime.Exit{ends: {Code: 5}, ended: {Code: 6}, eats.ID: {Code: 137, OOM: true}} {
		st := s.status(id)
		if st.State != runtime.Exited || st.Exit.Code != want.Code || st.Exit.OOM != want.OOM || st.Exit.Unknown || st.Exit.At.IsZero() || st.StartedAt.IsZero() {
			s.Errorf("want %+v: %+v", want, st)
		}
	}
	if st := s.status(created); st.State != runtime.Created {
		s.Errorf("never started: %+v", st)
	}
	s.start(created)
	if e := s.exit(created); e.Code != 7 {
		s.Errorf("started after the crash: %+v", e)
	}
}

// lease: a container runs on its lease and no longer, also with the runtime's
// daemon gone; a lease that is renewed is kept, and without one nothing starts.
func (s *suite) lease() {
	path := filepath.Join(s.TempDir(), "lease")
	grant := func(d time.Duration) {
		if err := lease.Write(path, lease.Lease{Era: 1, Until: lease.Boot() + d}); err != nil {
			s.Fatal(err)
		}
	}
	c := s.container("forever")
	c.Lease = path
	s.create(c)
	if _, err := s.Runtime.Start(s.Context(), c.ID); err == nil {
		s.Error("a container starts without a lease")
	}
	grant(s.Beat + time.Second)
	s.start(c.ID)
	renewed := time.Now()
	grant(2*s.Beat + 2*time.Second)
	s.Crash(s.T, func() { time.Sleep(s.Beat + 1500*time.Millisecond) }) // the first lease is over
	if st := s.status(c.ID); time.Since(renewed) < 2*s.Beat+1500*time.Millisecond && st.State != runtime.Running {
		s.Errorf("its lease was renewed: %+v", st)
	}
	if e := s.exit(c.ID); e.Code != 137 {
		s.Errorf("exit %+v", e)
	}
	if _, err := s.Runtime.Start(s.Context(), s.create(func() runtime.Container { c := s.container("forever"); c.Lease = path; return c }())); err == nil {
		s.Error("a container starts with a lease that has ended")
	}
}

func (s *suite) many() {
	const n = 50
	type result struct {
		id  string
		err error
	}
	results := make(chan result)
	work := make(chan runtime.Container)
	for range 4 {
		go func() {
			for c := range work {
				err := s.Runtime.Create(s.Context(), c)
				if err == nil {
					_, err = s.Runtime.Start(s.Context(), c.ID)
				}
				results <- result{c.ID, err}
			}
		}()
	}
	go func() {
		defer close(work)
		for range n {
			work <- s.container("forever")
		}
	}()
	for range n {
		r := <-results
		s.made = append(s.made, r.id)
		if r.err != nil {
			s.Error(r.err)
		}
	}
	all, err := s.Runtime.List(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	for _, id := range s.made {
		if found := find(all, id); len(found) != 1 || found[0].State != runtime.Running {
			s.Errorf("%s: %+v", id, found)
		}
	}
}
