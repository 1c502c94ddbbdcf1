package pod

import (
	"context"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime"
	"github.com/hashicorp/go-hclog"
)

// API is what pods tell the control plane, and ask of it.
type API interface {
	// PutStatus writes the status of a pod, if it is still the pod of that UID.
	PutStatus(ctx context.Context, p *api.Pod) (*api.Pod, error)
	// Drained returns once no proxy sends new connections to the pod.
	Drained(ctx context.Context, p *api.Pod) error
	// Record reports an event; it may get lost.
	Record(ctx context.Context, subject api.Ref, e api.Event)
}

// Network gives pods their namespaces and address.
type Network interface {
	// Setup makes a pod's sandbox, or finds the one that is there. A pod keeps
	// its address until Teardown, across reboots; with hostNetwork it has the
	// node's.
	Setup(ctx context.Context, uid, hostname string, hostNetwork bool) (Sandbox, error)
	// Teardown removes it; an absent one is not an error.
	Teardown(ctx context.Context, uid string) error
	// List returns the UIDs that have one.
	List(ctx context.Context) ([]string, error)
}

// Storage gives pods what they mount.
type Storage interface {
	// Mount makes it ready and returns where each is, by api.Mount.Source. It may
	// be called again at any time, such as after a reboot.
	Mount(ctx context.Context, p *api.Pod) (map[string]string, error)
	// Unmount lets go of all a pod has mounted, and removes its scratch space.
	Unmount(ctx context.Context, uid string) error
	// Full reports whether a place that Mount returned takes nothing more.
	Full(place string) bool
	// List returns the UIDs that have something mounted.
	List(ctx context.Context) ([]string, error)
}

// Sandbox is a pod's place on the node.
type Sandbox struct {
	runtime.Sandbox
	IP    string
	Fresh bool // made just now: nothing that ran before is in it
}

// Images has what containers are made of.
type Images interface {
	// Have returns the image if it is here and may be used without asking a
	// registry; else runtime.ErrNotFound.
	Have(ctx context.Context, f runtime.Fetch, policy string) (runtime.Image, error)
	// Ensure returns the image, fetching it when the node does not have it or the
	// policy says so. runtime.ErrUnavailable, runtime.ErrRefused.
	Ensure(ctx context.Context, f runtime.Fetch, policy string) (runtime.Image, error)
}

// Store keeps records on disk, by pod UID.
type Store interface {
	Load() (map[string][]byte, error)
	Save(uid string, record []byte) error
	Delete(uid string) error
}

// Config of a node's pods.
type Config struct {
	Runtime runtime.Runtime
	Network Network
	Storage Storage
	Images  Images
	API     API
	Prober  Prober
	Store   Store
	Logs    string // directory of the containers' logs; "" keeps none
	Files   *Files // what containers find in /etc; nil: what is in their image
	// Contents has what pods use of configs and secrets.
	Contents Contents
	// HoldFor is how long, after a start, pods of the checkpoint that do not run
	// wait for word from the API before they are started without it.
	HoldFor time.Duration
	// Lease is the node's run lease: its era, and for how long it is held. Nil:
	// the node has none.
	Lease func() (era int64, left time.Duration)
	// NeedLease is told when the first pod comes that needs the lease, and when the
	// last has gone; nil: nobody has to be told.
	NeedLease func(bool)
	// LeaseFile is where whoever holds the containers finds it; empty: only this
	// agent ends what needs it.
	LeaseFile string
	Log       hclog.Logger
}

// LogPath is where a run of a container writes to.
func LogPath(dir, uid, container string, attempt int) string {
	return filepath.Join(dir, uid, container, strconv.Itoa(attempt)+".log")
}

// mailbox hands work to the goroutine that owns the state the work is about.
type mailbox struct {
	mu      sync.Mutex
	letters []func()
	wake    chan struct{}
}

func newMailbox() *mailbox { return &mailbox{wake: make(chan struct{}, 1)} }

func (m *mailbox) post(f func()) {
	m.mu.Lock()
	m.letters = append(m.letters, f)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *mailbox) work() {
	m.mu.Lock()
	letters := m.letters
	m.letters = nil
	m.mu.Unlock()
	for _, f := range letters {
		f()
	}
}
