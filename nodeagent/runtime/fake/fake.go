// Package fake runs containers that are state machines: they print, listen,
// wait, obey or ignore signals, run out of memory and exit as their image's
// script says, in the time of the caller's clock (a synctest bubble's too).
//
// Invariants: it keeps the whole runtime contract and passes runtimetest; what
// it runs outlives any agent that holds it; it starts nothing in the
// background but timers and, for each subscriber, one pump that ends with its
// context.
//
// A script is a list of steps, run in order:
//
//	print=TEXT     a line to stdout (warn=TEXT: to stderr)
//	env=NAME       prints a variable
//	exit-if=N=V    prints that variable N is V and ends with 1, if it is
//	listen         from now on the container answers probes (deaf: not any more)
//	wait=5s        time passes
//	on-term=C      SIGTERM or the stop signal ends it with code C (143 unless said)
//	on-term=C,2s   … after two seconds
//	commands=C     from now on commands run in it do nothing and end with code C
//	ignore-term    SIGTERM and the stop signal do nothing
//	write=PATH     prints an error if it may not write there
//	id, rights     print its user, and its capabilities and restrictions
//	open=PATH      prints an error if it does not have the device
//	fork=N         prints an error if it may not have so many processes
//	use=M,N        from now on it uses M thousandths of a core and N bytes of memory
//	oom-child      a child of it is killed for want of memory
//	exit=C         ends with code C
//	oom            ends with 137, out of memory
//	forever        stays until it is stopped
//
// A script that runs out exits with 0.
package fake

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/lease"
)

// Image is what a reference stands for.
type Image struct {
	Script      []string
	ArgsReplace bool     // a container's args, when it has any, are its script
	Programs    []string // commands that exist in it; none is any
	Users       []string // names in its /etc/passwd; none is any
	StopSignal  string
	Size        int64
	Password    string // the registry gives it only to who has it

	digest string // of an image whose name another one has taken
}

// Serve is an image that starts at once, answers probes and stops when told.
func Serve() Image {
	return Image{Script: []string{"print=listening", "listen", "on-term=0", "forever"}}
}

// Toolbox is an image whose containers' args are their script, as the program
// of the same name in runtimetest does for real.
func Toolbox() Image {
	return Image{ArgsReplace: true, Programs: []string{"/toolbox"}, Users: []string{"root"}, StopSignal: "SIGTERM"}
}

// Named gives an image by the last part of its name, for those who can choose
// nothing but the reference:
//
//	exit-3, exit-3-after-5s   ends with code 3 (after five seconds), exit-0 well
//	commands-1-after-5s       serves, but commands in it end with code 1 (after five seconds)
//	oom, oom-after-5s         is killed for want of memory
//	cannot-start              has no program to start
//	never-ready               runs and answers no probe
//	ready-after-5s            answers after five seconds
//	ignores-term              has to be killed
//	uses-300                  serves, and uses 300 thousandths of a core and 64 MiB
//	toolbox                   see Toolbox
//	migrate, report           do their work, and end with 0
//	missing                   is in no registry
//	private                   is for who has the password "sesame"
//
// Any other name serves.
func Named(reference string) (Image, bool) {
	name, _, _ := strings.Cut(path.Base(reference), "@")
	name, _, _ = strings.Cut(name, ":")
	verb, after, _ := strings.Cut(name, "-after-")
	wait := "wait=" + cmp.Or(after, "0s")
	code, isExit := strings.CutPrefix(verb, "exit-")
	commands, isCommands := strings.CutPrefix(verb, "commands-")
	milli, uses := strings.CutPrefix(verb, "uses-")
	switch {
	case name == "missing":
		return Image{}, false
	case name == "private":
		i := Serve()
		i.Password = "sesame"
		return i, true
	case name == "toolbox":
		return Toolbox(), true
	case name == "migrate" || name == "report":
		return Image{Script: []string{"print=done", "wait=1s", "exit=0"}}, true
	case name == "cannot-start":
		return Image{Programs: []string{"/none"}}, true
	case isExit:
		return Image{Script: []string{"print=about to exit with " + code, wait, "exit=" + code}}, true
	case isCommands:
		return Image{Script: []string{"listen", "on-term=0", wait, "commands=" + commands, "forever"}}, true
	case uses:
		return Image{Script: append([]string{"use=" + milli + ",67108864"}, Serve().Script...)}, true
	case verb == "oom":
		return Image{Script: []string{"listen", wait, "oom"}}, true
	case verb == "never-ready":
		return Image{Script: []string{"on-term=0", "forever"}}, true
	case verb == "ready":
		return Image{Script: []string{"on-term=0", wait, "listen", "forever"}}, true
	case verb == "ignores-term":
		return Image{Script: []string{"listen", "ignore-term", "forever"}}, true
	}
	return Serve(), true
}

// Runtime is the fake. Use New.
type Runtime struct {
	mu         sync.Mutex
	registry   func(reference string) (Image, bool)
	pullTakes  time.Duration
	startTakes time.Duration
	down       error
	images     map[string]Image // on the node
	containers map[string]*container
	pumps      map[*pump]bool
	pid        int
	clock      lease.Clock
}

var _ runtime.Runtime = (*Runtime)(nil)

// New returns a node's fake runtime whose registry is Named.
func New() *Runtime {
	return &Runtime{
		registry:   Named,
		images:     map[string]Image{},
		containers: map[string]*container{},
		pumps:      map[*pump]bool{},
		pid:        100,
		clock:      lease.Boot,
	}
}

// SetRegistry says what Pull finds.
func (r *Runtime) SetRegistry(find func(reference string) (Image, bool)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.registry = find
}

// SetDelays says how long each Pull and Start take.
func (r *Runtime) SetDelays(pull, start time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pullTakes, r.startTakes = pull, start
}

// SetClock says by which clock leases are read.
func (r *Runtime) SetClock(clock lease.Clock) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock = clock
}

// AddImage puts an image on the node, as if it had been loaded.
func (r *Runtime) AddImage(reference string, i Image) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[normalize(reference)] = i
}

// Break makes every call fail with err and ends all subscriptions, as if the
// runtime had died; containers go on. Break(nil) brings it back.
func (r *Runtime) Break(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down = err; err != nil {
		for p := range r.pumps {
			p.stop()
		}
	}
}

// Reboot ends everything that runs, with nobody there to see how.
func (r *Runtime) Reboot() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		c.end(runtime.Exit{Unknown: true})
	}
}

// Crash ends a running container with a code.
func (r *Runtime) Crash(id string, code int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		c.end(runtime.Exit{Code: code, At: time.Now()})
	}
}

// SetListening makes a running container answer probes or not.
func (r *Runtime) SetListening(id string, listening bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		c.listening = listening
	}
}

// SetCommands makes commands in a running container end with code, or with 0 do
// what they do.
func (r *Runtime) SetCommands(id string, code int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		c.commands = code
	}
}

// Listening is whether a container runs and answers probes.
func (r *Runtime) Listening(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	return c != nil && c.status.State == runtime.Running && c.listening
}

// Probe is what a probe of a port of the container comes back with.
func (r *Runtime) Probe(_ context.Context, id string) error {
	if r.Listening(id) {
		return nil
	}
	return fmt.Errorf("probe %s: connection refused", id)
}

// Container gives back what a container was created from.
func (r *Runtime) Container(id string) (runtime.Container, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.containers[id]
	if !ok {
		return runtime.Container{}, false
	}
	return c.spec, true
}

// normalize names an image as registries do: docker.io/library/nginx:latest.
func normalize(reference string) string {
	host, rest, found := strings.Cut(reference, "/")
	if !found || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host, rest = "docker.io", reference
	}
	if host == "docker.io" && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	if !strings.ContainsAny(path.Base(rest), ":@") {
		rest += ":latest"
	}
	return host + "/" + rest
}

// Digest is that of the image a registry has by a reference.
func Digest(reference string, i Image) string { return i.describe(normalize(reference)).Digest }

func (i Image) describe(reference string) runtime.Image {
	sum := sha256.Sum256(fmt.Append(nil, reference, i.Script))
	return runtime.Image{
		Reference:  reference,
		Digest:     cmp.Or(i.digest, fmt.Sprintf("sha256:%x", sum)),
		Size:       cmp.Or(i.Size, 1<<20),
		StopSignal: i.StopSignal,
	}
}

// Images returns what the node has.
func (r *Runtime) Images(context.Context) ([]runtime.Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []runtime.Image
	for _, ref := range slices.Sorted(maps.Keys(r.images)) {
		all = append(all, r.images[ref].describe(ref))
	}
	return all, r.down
}

// Image returns one image.
func (r *Runtime) Image(_ context.Context, reference string) (runtime.Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down != nil {
		return runtime.Image{}, r.down
	}
	ref, i, ok := r.find(reference)
	if !ok {
		return runtime.Image{}, fmt.Errorf("image %s: %w", reference, runtime.ErrNotFound)
	}
	return i.describe(ref), nil
}

// find looks for an image by reference or, after an @, by digest.
func (r *Runtime) find(reference string) (string, Image, bool) {
	ref := normalize(reference)
	if i, ok := r.images[ref]; ok {
		return ref, i, true
	}
	name, digest, byDigest := strings.Cut(ref, "@")
	for have, i := range r.images {
		if byDigest && i.describe(have).Digest == digest && repository(have) == repository(name) {
			return have, i, true
		}
	}
	return "", Image{}, false
}

// name gives an image its name. What had the name is found by its digest from now on.
func (r *Runtime) name(ref string, i Image) {
	if was, ok := r.images[ref]; ok && was.describe(ref).Digest != i.describe(ref).Digest {
		was.digest = was.describe(ref).Digest
		r.images[repository(ref)+"@"+was.digest] = was
	}
	r.images[ref] = i
}

// repository is a reference without its tag and digest.
func repository(ref string) string {
	dir, base := path.Split(ref)
	base, _, _ = strings.Cut(base, "@")
	base, _, _ = strings.Cut(base, ":")
	return dir + base
}

// Pull takes an image from the registry.
func (r *Runtime) Pull(ctx context.Context, f runtime.Fetch) (runtime.Image, error) {
	r.mu.Lock()
	takes := r.pullTakes
	r.mu.Unlock()
	if f.Progress != nil && takes > 0 {
		f.Progress(0, 1<<20)
	}
	if err := sleep(ctx, takes); err != nil {
		return runtime.Image{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	ref, i, err := r.offered(f)
	if err != nil {
		return runtime.Image{}, fmt.Errorf("pull %w", err)
	}
	r.images[ref] = i
	return i.describe(ref), nil
}

// Resolve returns the digest the registry has.
func (r *Runtime) Resolve(_ context.Context, f runtime.Fetch) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ref, i, err := r.offered(f)
	if err != nil {
		return "", fmt.Errorf("resolve %w", err)
	}
	return i.describe(ref).Digest, nil
}

// offered finds an image in the registry, for who asks.
func (r *Runtime) offered(f runtime.Fetch) (string, Image, error) {
	if r.down != nil {
		return "", Image{}, r.down
	}
	name, digest, _ := strings.Cut(f.Reference, "@")
	ref := normalize(name)
	i, ok := r.registry(ref)
	switch {
	case !ok, digest != "" && digest != i.describe(ref).Digest:
		return ref, i, fmt.Errorf("%s: %w: not found", ref, runtime.ErrUnavailable)
	case i.Password != "" && i.Password != f.Credentials.Password:
		return ref, i, fmt.Errorf("%s: %w: it wants other credentials", ref, runtime.ErrRefused)
	}
	return ref, i, nil
}

// RemoveImage forgets an image.
func (r *Runtime) RemoveImage(_ context.Context, reference string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ref, _, ok := r.find(reference); ok {
		delete(r.images, ref)
	}
	return r.down
}

// Import reads lines "reference step;step;…" in place of a tar: the fake's own
// image format. A line with a reference alone is looked up in the registry.
func (r *Runtime) Import(_ context.Context, tar io.Reader) ([]runtime.Image, error) {
	b, err := io.ReadAll(tar)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down != nil {
		return nil, r.down
	}
	var got []runtime.Image
	for line := range strings.Lines(string(b)) {
		ref, script, scripted := strings.Cut(strings.TrimSpace(line), " ")
		i := Image{Script: strings.Split(script, ";")}
		if !scripted {
			i, _ = r.registry(normalize(ref))
		}
		r.name(normalize(ref), i)
		got = append(got, i.describe(normalize(ref)))
	}
	return got, nil
}

// Export writes an image in the fake's own format.
func (r *Runtime) Export(_ context.Context, reference string, tar io.Writer) error {
	r.mu.Lock()
	ref, i, ok := r.find(reference)
	err := r.down
	r.mu.Unlock()
	switch {
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("image %s: %w", reference, runtime.ErrNotFound)
	}
	_, err = fmt.Fprintln(tar, ref, strings.Join(i.Script, ";"))
	return err
}

// Receive keeps one image of what Export wrote.
func (r *Runtime) Receive(_ context.Context, reference, digest string, tar io.Reader) (runtime.Image, error) {
	b, err := io.ReadAll(tar)
	if err != nil {
		return runtime.Image{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down != nil {
		return runtime.Image{}, r.down
	}
	for line := range strings.Lines(string(b)) {
		ref, script, _ := strings.Cut(strings.TrimSpace(line), " ")
		i := Image{Script: strings.Split(script, ";")}
		if ref == reference && i.describe(ref).Digest == digest {
			r.name(ref, i)
			return i.describe(ref), nil
		}
	}
	return runtime.Image{}, fmt.Errorf("image %s: %w: the archive has none of digest %s", reference, runtime.ErrUnavailable, digest)
}

// Close ends the subscriptions; containers go on, and so does the fake, for
// the next agent to take.
func (r *Runtime) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.pumps {
		p.stop()
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic("fake: script: " + s + " is not a number")
	}
	return n
}
