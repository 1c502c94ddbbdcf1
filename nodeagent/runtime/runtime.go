// Package runtime is the contract between the agent and what runs containers.
//
// Invariants every implementation keeps, and runtimetest checks: calls are
// idempotent by container id; a container survives the restart of the agent
// and of the runtime; List after a restart knows every container and, for
// those that ended meanwhile, how; "I do not know" is an error and never
// "not running".
package runtime

import (
	"context"
	"errors"
	"io"
	"time"
)

var (
	// ErrNotFound: there is no such container or image.
	ErrNotFound = errors.New("not found")
	// ErrCannotStart: the container can never start as declared, such as a
	// program that is not in the image. Trying again cannot help.
	ErrCannotStart = errors.New("cannot start")
	// ErrNotRunning: a command was to run in a container that does not.
	ErrNotRunning = errors.New("not running")
	// ErrUnavailable: the image is not here and its registry does not have it or cannot be reached.
	ErrUnavailable = errors.New("image unavailable")
	// ErrRefused: the registry gives the image to others only.
	ErrRefused = errors.New("refused by the registry")
)

// Container is what to run. ID is unique on the node and chosen by the caller:
// a second Create of the same ID changes nothing.
type Container struct {
	ID      string            // at most 76 letters and digits, with single dots, dashes and underscores between
	Pod     string            // pod UID: containers of a pod share a shim and the sandbox
	Labels  map[string]string // kept with the container, given back by List; small: 4 KiB each
	Image   string            // reference; must be present
	Command []string          // replaces the image's entrypoint
	Args    []string          // replaces the image's arguments
	Env     []string          // KEY=value, after the image's
	Mounts  []Mount
	Sandbox Sandbox

	Security Security

	CPU         int64 // reserved: its share when others want the processor too, thousandths of a core; 0 is none
	CPULimit    int64 // what it is held to, thousandths of a core; 0 is none
	MemoryLimit int64 // bytes; 0 is none
	PIDLimit    int64 // processes and threads; 0 is none

	// Lease is a file (package lease) that says until when the container may run:
	// whoever holds it kills it then, also if nobody else is there any more, and
	// starts it only while the lease lasts. Empty: for as long as it likes.
	Lease string

	LogPath string // file the shim appends stamped lines to and rotates
}

// Sandbox is what the containers of a pod share: paths of pinned namespaces.
type Sandbox struct {
	Net, IPC, UTS string
	Hostname      string
}

// Security is what a container may do on its node. The zero value is the usual.
type Security struct {
	User         string   // name or number, and of the group after a colon; "" is the image's
	ReadOnlyRoot bool     // its own files cannot be changed; mounts can
	Capabilities []string // without the CAP_; nil is the usual fourteen, empty none
	Ambient      []string // of the capabilities: those that a user other than root has too
	NewRights    bool     // programs gain rights by being run, such as by setuid
	Unconfined   bool     // any system call
	Devices      []string // of the node, such as /dev/fuse
	Privileged   bool     // as root of the node: all capabilities, devices and system calls
}

// Mount shows a file or directory of the node inside a container.
type Mount struct {
	Source, Target string
	ReadOnly       bool
	Owned          bool // the source is made the container's user's own
}

// State is where a container is in its life.
type State string

const (
	Created State = "created"
	Running State = "running"
	Exited  State = "exited"
)

// Status is a container as the runtime sees it.
type Status struct {
	ID        string
	Pod       string
	Labels    map[string]string
	State     State
	PID       int
	StartedAt time.Time
	Exit      Exit   // when Exited
	Image     string // digest
}

// Exit is how a container ended.
type Exit struct {
	Code    int // as a shell shows it: 128 + signal when killed by one
	OOM     bool
	At      time.Time // zero when Unknown
	Unknown bool      // it ended, and nobody saw how, such as at a power cut
}

// Usage is what a container uses.
type Usage struct {
	CPU    time.Duration // of one processor, since it started
	Memory int64         // bytes, without what can be dropped at once
}

// Event says that a container changed; ask Status for what it is now.
type Event struct {
	ID string
}

// Image is an image on the node.
type Image struct {
	Reference  string // normalized, such as docker.io/library/nginx:1.27
	Digest     string
	Size       int64 // bytes
	StopSignal string
}

// Fetch is what to get from a registry, and as whom.
type Fetch struct {
	Reference   string
	Credentials Credentials
	Progress    func(done, total int64) // bytes, as far as known by then; may be nil
}

// Credentials are a user of a registry. The zero value is anybody.
type Credentials struct{ Username, Password string }

// ExecIO connects a process to its caller. Stdin may be nil. Resize carries
// terminal sizes and implies a terminal when not nil.
type ExecIO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan Size
}

// Size is a terminal's, in characters.
type Size struct{ Cols, Rows uint16 }

// Runtime runs containers. Every implementation passes runtimetest.Run.
type Runtime interface {
	// Create makes the container ready to start. ErrNotFound: the image is
	// absent. ErrCannotStart: its user is not in it, or the node lacks a device.
	Create(ctx context.Context, c Container) error
	// Start starts a created container; one that runs or has ended is left
	// alone: to run it again, create another.
	// ErrCannotStart: it never will; the error ends in the reason for users.
	Start(ctx context.Context, id string) (Status, error)
	// Signal sends a signal by name, such as SIGTERM, to the first process, or
	// with SIGKILL to all. A container that does not run is not an error, an
	// absent one is ErrNotFound.
	Signal(ctx context.Context, id, signal string) error
	// Remove kills what still runs and forgets the container; its log stays. An
	// absent one is not an error.
	Remove(ctx context.Context, id string) error
	// Status returns one container, or ErrNotFound.
	Status(ctx context.Context, id string) (Status, error)
	// List returns all containers this agent ever created and did not remove.
	List(ctx context.Context) ([]Status, error)
	// Usage measures a running container. ErrNotRunning.
	Usage(ctx context.Context, id string) (Usage, error)
	// Exec runs a command in a running container, with its environment, and
	// returns its exit code. It returns when the command has ended and its output
	// has been delivered; when ctx ends first, the command is killed.
	// ErrNotRunning, ErrCannotStart.
	Exec(ctx context.Context, id string, command []string, tty bool, io ExecIO) (code int, err error)
	// Events yields changes until ctx ends. After a gap, of which the channel's
	// closing is the sign, call List.
	Events(ctx context.Context) (<-chan Event, error)

	// Images returns what the node has.
	Images(ctx context.Context) ([]Image, error)
	// Image returns one image by any form of its reference, or ErrNotFound.
	Image(ctx context.Context, reference string) (Image, error)
	// Pull fetches an image from its registry. ErrUnavailable, ErrRefused.
	Pull(ctx context.Context, f Fetch) (Image, error)
	// Resolve asks the registry which digest the reference has there now, and
	// thereby whether the credentials are good for it. ErrUnavailable, ErrRefused.
	Resolve(ctx context.Context, f Fetch) (digest string, err error)
	// RemoveImage forgets an image; what runs of it goes on. An absent one is not an error.
	RemoveImage(ctx context.Context, reference string) error
	// Import reads an OCI layout tar and keeps the images it names. What had such a
	// name before is still found by its digest, and so it is after Receive.
	Import(ctx context.Context, tar io.Reader) ([]Image, error)
	// Export writes an image as an archive for Receive. ErrNotFound.
	Export(ctx context.Context, reference string, tar io.Writer) error
	// Receive keeps, of an archive that another node exported, the image of this
	// full reference and digest, and names nothing else that is in it.
	// ErrUnavailable: it is not in there.
	Receive(ctx context.Context, reference, digest string, tar io.Reader) (Image, error)
	// Close lets go of the runtime; containers go on.
	Close() error
}
