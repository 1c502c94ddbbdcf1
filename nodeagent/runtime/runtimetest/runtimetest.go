// Package runtimetest is what every implementation of runtime.Runtime must
// keep. The suite runs the toolbox image (see toolbox and fake.Toolbox): its
// containers' arguments are scripts both a fake and a real container can run.
package runtimetest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/logfile"
)

// Node is a runtime under test and what surrounds it.
type Node struct {
	Runtime runtime.Runtime
	Image   string        // of the toolbox, present
	Beat    time.Duration // a moment in which a process can be seen to do something

	// Sandbox makes what the containers of a pod share. Optional.
	Sandbox func(t *testing.T, pod string) runtime.Sandbox
	// Crash kills the runtime without warning, runs during while it is gone and
	// brings it back. Running containers must not notice.
	Crash func(t *testing.T, during func())
	// Reopen replaces Runtime as a restarted agent would.
	Reopen func(t *testing.T)
	// Archive is an image in the form Import takes, and its reference.
	Archive func(t *testing.T) (archive []byte, reference string)
	// Reloaded is another image of the same reference.
	Reloaded func(t *testing.T) []byte
	// Leaks says what is left of removed containers. Optional.
	Leaks func() []string
}

const patience = 30 * time.Second

// Run runs the suite; open is called once for each part, and the parts of a
// node may share one runtime.
func Run(t *testing.T, open func(t *testing.T) *Node) {
	for _, part := range []struct {
		name string
		test func(s *suite)
	}{
		{"Life", (*suite).life},
		{"CreateIsIdempotent", (*suite).createIsIdempotent},
		{"CreateNeedsItsImage", (*suite).createNeedsItsImage},
		{"CannotStart", (*suite).cannotStart},
		{"Signals", (*suite).signals},
		{"Absent", (*suite).absent},
		{"RemoveKills", (*suite).removeKills},
		{"OOM", (*suite).oom},
		{"OOMOfChild", (*suite).oomOfChild},
		{"Usage", (*suite).usage},
		{"PIDLimit", (*suite).pidLimit},
		{"User", (*suite).user},
		{"ReadOnlyRoot", (*suite).readOnlyRoot},
		{"Rights", (*suite).rights},
		{"Devices", (*suite).devices},
		{"Logs", (*suite).logs},
		{"Events", (*suite).events},
		{"Exec", (*suite).exec},
		{"ExecStdin", (*suite).execStdin},
		{"ExecTerminal", (*suite).execTerminal},
		{"ExecEnds", (*suite).execEnds},
		{"Images", (*suite).images},
		{"Handover", (*suite).handover},
		{"Renamed", (*suite).renamed},
		{"AgentRestart", (*suite).agentRestart},
		{"RuntimeCrash", (*suite).runtimeCrash},
		{"Lease", (*suite).lease},
		{"Many", (*suite).many},
	} {
		t.Run(part.name, func(t *testing.T) {
			s := &suite{T: t, Node: open(t)}
			defer s.end()
			part.test(s)
		})
	}
}

type suite struct {
	*testing.T
	*Node
	made []string
}

var serial atomic.Int64

// container describes a toolbox container with a name of its own.
func (s *suite) container(script ...string) runtime.Container {
	pod := fmt.Sprintf("pod-%d", serial.Add(1))
	c := runtime.Container{
		ID: pod + "-main", Pod: pod, Image: s.Image, Args: script,
		Labels:  map[string]string{"part": s.Name()},
		Env:     []string{"GREETING=hello there"},
		LogPath: filepath.Join(s.TempDir(), "main.log"),
	}
	if s.Sandbox != nil {
		c.Sandbox = s.Sandbox(s.T, pod)
	}
	return c
}

func (s *suite) create(c runtime.Container) string {
	s.Helper()
	s.made = append(s.made, c.ID)
	if err := s.Runtime.Create(s.Context(), c); err != nil {
		s.Fatal(err)
	}
	return c.ID
}

// run creates and starts a toolbox container.
func (s *suite) run(script ...string) string {
	s.Helper()
	id := s.create(s.container(script...))
	s.start(id)
	return id
}

func (s *suite) start(id string) runtime.Status {
	s.Helper()
	st, err := s.Runtime.Start(s.Context(), id)
	if err != nil {
		s.Fatal(err)
	}
	return st
}

func (s *suite) status(id string) runtime.Status {
	s.Helper()
	st, err := s.Runtime.Status(s.Context(), id)
	if err != nil {
		s.Fatal(err)
	}
	return st
}

// exit waits for a container's end, told by events.
func (s *suite) exit(id string) runtime.Exit {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	events, err := s.Runtime.Events(ctx)
	if err != nil {
		s.Fatal(err)
	}
	for {
		if st := s.status(id); st.State == runtime.Exited {
			return st.Exit
		}
		if _, ok := <-events; !ok {
			s.Fatalf("%s has not exited: %+v", id, s.status(id))
		}
	}
}

func (s *suite) log(id string, c runtime.Container) string {
	s.Helper()
	var b strings.Builder
	for l, err := range logfile.Read(s.Context(), c.LogPath, logfile.Query{}) {
		if err != nil {
			s.Fatal(err)
		}
		fmt.Fprintf(&b, "%s: %s\n", l.Stream, l.Text)
	}
	return b.String()
}

func (s *suite) end() {
	for _, id := range s.made {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if err := s.Runtime.Remove(ctx, id); err != nil {
			s.Error(err)
		}
		cancel()
	}
	if s.Leaks != nil {
		for _, l := range s.Leaks() {
			s.Errorf("left behind: %s", l)
		}
	}
}

func (s *suite) wait(beats int) string { return fmt.Sprintf("wait=%v", time.Duration(beats)*s.Beat) }

func (s *suite) life() {
	c := s.container(s.wait(2), "exit=3")
	id := s.create(c)
	if st := s.status(id); st.State != runtime.Created || st.Pod != c.Pod || st.Labels["part"] != s.Name() || st.PID != 0 {
		s.Errorf("created: %+v", st)
	}
	before := time.Now().Add(-time.Second)
	st := s.start(id)
	if st.State != runtime.Running || st.PID == 0 || st.StartedAt.Before(before) || !strings.HasPrefix(st.Image, "sha256:") {
		s.Errorf("started: %+v", st)
	}
	if again := s.start(id); again.PID != st.PID {
		s.Errorf("a second start made %d of %d", again.PID, st.PID)
	}
	if e := s.exit(id); e.Code != 3 || e.OOM || e.Unknown || e.At.Before(st.StartedAt) {
		s.Errorf("exit %+v", e)
	}
	if st := s.start(id); st.State != runtime.Exited || st.Exit.Code != 3 || st.PID != 0 {
		s.Errorf("start after the end: %+v", st)
	}
	for range 2 {
		if err := s.Runtime.Remove(s.Context(), id); err != nil {
			s.Error(err)
		}
	}
	if _, err := s.Runtime.Status(s.Context(), id); !errors.Is(err, runtime.ErrNotFound) {
		s.Errorf("after remove: %v", err)
	}
	s.start(s.create(c)) // the name is free again
	if e := s.exit(id); e.Code != 3 {
		s.Errorf("second life: %+v", e)
	}
}

func (s *suite) createIsIdempotent() {
	c := s.container("forever")
	s.create(c)
	pid := s.start(c.ID).PID
	other := c
	other.Args, other.Labels = []string{"exit=9"}, nil
	s.create(other)
	if st := s.status(c.ID); st.PID != pid || len(st.Labels) != 1 {
		s.Errorf("changed: %+v", st)
	}
}

func (s *suite) createNeedsItsImage() {
	c := s.container("forever")
	c.Image = "registry.invalid/none:1"
	if err := s.Runtime.Create(s.Context(), c); !errors.Is(err, runtime.ErrNotFound) {
		s.Errorf("got %v", err)
	}
	if all, err := s.Runtime.List(s.Context()); err != nil || len(find(all, c.ID)) > 0 {
		s.Errorf("listed: %v %v", all, err)
	}
}

func find(all []runtime.Status, id string) (found []runtime.Status) {
	for _, st := range all {
		if st.ID == id {
			found = append(found, st)
		}
	}
	return found
}

func (s *suite) cannotStart() {
	for program, reason := range map[string]string{
		"/nope": `exec: "/nope": stat /nope: no such file or directory`,
		"nope":  `exec: "nope": executable file not found in $PATH`,
	} {
		c := s.container("forever")
		c.Command = []string{program}
		s.create(c)
		for range 2 {
			_, err := s.Runtime.Start(s.Context(), c.ID)
			if !errors.Is(err, runtime.ErrCannotStart) || !strings.HasSuffix(err.Error(), ": "+reason) {
				s.Errorf("got %v", err)
			}
		}
		if st := s.status(c.ID); st.State != runtime.Created {
			s.Errorf("after a failed start: %+v", st)
		}
		if err := s.Runtime.Remove(s.Context(), c.ID); err != nil {
			s.Error(err)
		}
		c.Command = []string{"/toolbox"}
		s.create(c)
		if st := s.start(c.ID); st.State != runtime.Running {
			s.Errorf("the same id, corrected: %+v", st)
		}
	}
}

func (s *suite) signals() {
	for _, c := range []struct {
		script []string
		signal string
		code   int
	}{
		{[]string{"on-term=0," + s.Beat.String(), "print=ready", "forever"}, "SIGTERM", 0},
		{[]string{"ignore-term", "print=ready", "forever"}, "SIGKILL", 137},
		{[]string{"print=ready", "forever"}, "SIGKILL", 137},
	} {
		spec := s.container(c.script...)
		id := s.create(spec)
		s.start(id)
		s.printed(spec, "ready")
		if err := s.Runtime.Signal(s.Context(), id, c.signal); err != nil {
			s.Fatal(err)
		}
		if e := s.exit(id); e.Code != c.code || e.OOM {
			s.Errorf("%v %s: %+v", c.script, c.signal, e)
		}
		if err := s.Runtime.Signal(s.Context(), id, c.signal); err != nil {
			s.Errorf("after the end: %v", err)
		}
	}
	spec := s.container("ignore-term", "print=ready", "forever")
	id := s.create(spec)
	if err := s.Runtime.Signal(s.Context(), id, "SIGTERM"); err != nil {
		s.Errorf("before the start: %v", err)
	}
	s.start(id)
	s.printed(spec, "ready")
	if err := s.Runtime.Signal(s.Context(), id, "SIGTERM"); err != nil {
		s.Fatal(err)
	}
	time.Sleep(s.Beat)
	if st := s.status(id); st.State != runtime.Running {
		s.Errorf("ignored SIGTERM and is %+v", st)
	}
}

// printed waits for a line.
func (s *suite) printed(c runtime.Container, text string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	for l := range logfile.Read(ctx, c.LogPath, logfile.Query{Follow: true}) {
		if l.Text == text {
			return
		}
	}
	s.Fatalf("%s never printed %q", c.ID, text)
}

func (s *suite) absent() {
	ctx := s.Context()
	if err := s.Runtime.Remove(ctx, "absent"); err != nil {
		s.Error(err)
	}
	_, started := s.Runtime.Start(ctx, "absent")
	_, asked := s.Runtime.Status(ctx, "absent")
	_, ran := s.Runtime.Exec(ctx, "absent", []string{"/toolbox"}, false, runtime.ExecIO{})
	for _, err := range []error{started, asked, ran, s.Runtime.Signal(ctx, "absent", "SIGTERM")} {
		if !errors.Is(err, runtime.ErrNotFound) {
			s.Errorf("got %v", err)
		}
	}
}

func (s *suite) removeKills() {
	id := s.run("ignore-term", "forever")
	if err := s.Runtime.Remove(s.Context(), id); err != nil {
		s.Fatal(err)
	}
	if all, err := s.Runtime.List(s.Context()); err != nil || len(find(all, id)) > 0 {
		s.Errorf("listed: %v %v", all, err)
	}
}

func (s *suite) oom() {
	c := s.container(s.wait(1), "oom")
	c.MemoryLimit = 32 << 20
	s.start(s.create(c))
	if e := s.exit(c.ID); e.Code != 137 || !e.OOM {
		s.Errorf("exit %+v", e)
	}
}

func (s *suite) logs() {
	c := s.container("print=to stdout", "warn=to stderr", "print=last words", "exit=1")
	s.start(s.create(c))
	s.exit(c.ID)
	// What a container said is in its log by the time it is known to have ended.
	got := s.log(c.ID, c)
	for _, want := range []string{"stdout: to stdout\n", "stderr: to stderr\n", "stdout: last words\n"} {
		if !strings.Contains(got, want) {
			s.Errorf("no %q in\n%s", want, got)
		}
	}
}

func (s *suite) events() {
	ctx, cancel := context.WithCancel(s.Context())
	events, err := s.Runtime.Events(ctx)
	if err != nil {
		s.Fatal(err)
	}
	id := s.run(s.wait(1), "exit=0")
	states := map[runtime.State]bool{}
	deadline := time.After(patience)
	for !states[runtime.Exited] {
		select {
		case e := <-events:
			if e.ID == id {
				states[s.status(id).State] = true
			}
		case <-deadline:
			s.Fatalf("saw %v", states)
		}
	}
	cancel()
	for {
		select {
		case _, ok := <-events:
			if !ok {
				return
			}
		case <-deadline:
			s.Fatal("the channel stays open")
		}
	}
}

func (s *suite) images() {
	ctx := s.Context()
	i, err := s.Runtime.Image(ctx, s.Image)
	if err != nil || !strings.HasPrefix(i.Digest, "sha256:") || i.Size == 0 || i.StopSignal != "SIGTERM" {
		s.Errorf("%+v %v", i, err)
	}
	if byDigest, err := s.Runtime.Image(ctx, i.Reference+"@"+i.Digest); err != nil || byDigest.Digest != i.Digest {
		s.Errorf("by digest: %+v %v", byDigest, err)
	}
	all, err := s.Runtime.Images(ctx)
	found := false
	for _, have := range all {
		found = found || have == i
	}
	if err != nil || !found {
		s.Errorf("%v has no %v: %v", all, i, err)
	}
	if _, err := s.Runtime.Image(ctx, "absent:1"); !errors.Is(err, runtime.ErrNotFound) {
		s.Errorf("absent: %v", err)
	}
	begin := time.Now()
	if _, err := s.Runtime.Pull(ctx, runtime.Fetch{Reference: "127.0.0.1:1/team/missing:1"}); !errors.Is(err, runtime.ErrUnavailable) || time.Since(begin) > 10*time.Second {
		s.Errorf("pull: %v after %v", err, time.Since(begin))
	}
	archive, reference := s.Archive(s.T)
	got, err := s.Runtime.Import(ctx, strings.NewReader(string(archive)))
	if err != nil || len(got) != 1 || got[0].Reference != reference {
		s.Errorf("import: %+v %v", got, err)
	}
	if i, err := s.Runtime.Image(ctx, reference); err != nil || i != got[0] {
		s.Errorf("imported: %+v %v", i, err)
	}
	if _, err := s.Runtime.Resolve(ctx, runtime.Fetch{Reference: "127.0.0.1:1/team/missing:1"}); !errors.Is(err, runtime.ErrUnavailable) {
		s.Errorf("resolve: %v", err)
	}
	for range 2 {
		if err := s.Runtime.RemoveImage(ctx, reference); err != nil {
			s.Errorf("remove: %v", err)
		}
	}
	if _, err := s.Runtime.Image(ctx, reference); !errors.Is(err, runtime.ErrNotFound) {
		s.Errorf("removed: %v", err)
	}
}

// renamed: an image whose name another one takes, by hand or from another node,
// is found by its digest, and may run; the name is that of the other.
func (s *suite) renamed() {
	ctx := s.Context()
	archive, reference := s.Archive(s.T)
	load := func(archive string) runtime.Image {
		got, err := s.Runtime.Import(ctx, strings.NewReader(archive))
		if err != nil || len(got) != 1 {
			s.Fatalf("import: %+v %v", got, err)
		}
		return got[0]
	}
	first := load(string(archive))
	before, err := s.Runtime.Images(ctx)
	if err != nil {
		s.Fatal(err)
	}
	load(string(archive))
	if after, err := s.Runtime.Images(ctx); err != nil || len(after) != len(before) {
		s.Errorf("loading the same again makes %v of %v (%v)", after, before, err)
	}
	check := func(named, other runtime.Image) {
		s.Helper()
		if i, err := s.Runtime.Image(ctx, reference); err != nil || i.Digest != named.Digest {
			s.Errorf("%s is %+v, want %s: %v", reference, i, named.Digest, err)
		}
		if i, err := s.Runtime.Image(ctx, reference+"@"+other.Digest); err != nil || i.Digest != other.Digest {
			s.Errorf("the other is %+v, want %s: %v", i, other.Digest, err)
		}
	}
	second := load(string(s.Reloaded(s.T)))
	check(second, first)
	c := s.container(s.Name())
	c.Image = reference + "@" + first.Digest
	if err := s.Runtime.Create(ctx, c); err != nil {
		s.Errorf("run what lost its name: %v", err)
	}
	var tar strings.Builder
	if err := s.Runtime.Export(ctx, reference, &tar); err != nil {
		s.Fatal(err)
	}
	load(string(archive))
	check(first, second)
	if _, err := s.Runtime.Receive(ctx, reference, second.Digest, strings.NewReader(tar.String())); err != nil {
		s.Fatal(err)
	}
	check(second, first)
	if err := errors.Join(s.Runtime.Remove(ctx, c.ID), s.Runtime.RemoveImage(ctx, reference), s.Runtime.RemoveImage(ctx, reference+"@"+first.Digest), s.Runtime.RemoveImage(ctx, reference+"@"+second.Digest)); err != nil {
		s.Error(err)
	}
}

// handover: what one node exports another receives, the one image it asked for
// and nothing else of the archive.
func (s *suite) handover() {
	ctx := s.Context()
	archive, reference := s.Archive(s.T)
	got, err := s.Runtime.Import(ctx, strings.NewReader(string(archive)))
	if err != nil || len(got) != 1 {
		s.Fatalf("import: %+v %v", got, err)
	}
	var tar strings.Builder
	if err := s.Runtime.Export(ctx, reference, &tar); err != nil {
		s.Fatal(err)
	}
	if err := s.Runtime.Export(ctx, "absent:1", &strings.Builder{}); !errors.Is(err, runtime.ErrNotFound) {
		s.Errorf("export what is absent: %v", err)
	}
	if err := s.Runtime.RemoveImage(ctx, reference); err != nil {
		s.Fatal(err)
	}
	other := "sha256:" + strings.Repeat("0", 64)
	if i, err := s.Runtime.Receive(ctx, reference, other, strings.NewReader(tar.String())); !errors.Is(err, runtime.ErrUnavailable) {
		s.Errorf("another digest: %+v %v", i, err)
	}
	if i, err := s.Runtime.Receive(ctx, reference, got[0].Digest, strings.NewReader(tar.String()[:tar.Len()/2])); err == nil {
		s.Errorf("half an archive: %+v", i)
	}
	if i, err := s.Runtime.Image(ctx, reference); !errors.Is(err, runtime.ErrNotFound) {
		s.Errorf("what was refused is here: %+v %v", i, err)
	}
	for range 2 {
		if i, err := s.Runtime.Receive(ctx, reference, got[0].Digest, strings.NewReader(tar.String())); err != nil || i != got[0] {
			s.Errorf("received %+v, want %+v: %v", i, got[0], err)
		}
	}
	if i, err := s.Runtime.Image(ctx, reference); err != nil || i != got[0] {
		s.Errorf("received: %+v %v", i, err)
	}
	c := s.container(s.Name())
	c.Image = reference
	if err := s.Runtime.Create(ctx, c); err != nil {
		s.Errorf("run what was received: %v", err)
	}
	if err := errors.Join(s.Runtime.Remove(ctx, c.ID), s.Runtime.RemoveImage(ctx, reference)); err != nil {
		s.Error(err)
	}
}
