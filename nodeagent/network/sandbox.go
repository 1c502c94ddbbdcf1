package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespaces are the files of a sandbox, in the order they are pinned: the
// last one says that the sandbox is whole.
var namespaces = [...]string{"net", "ipc", "uts"}

// pin makes a sandbox in dir: new namespaces, bind-mounted as files. One that
// is whole is left alone; a broken one is made anew. Where network is open, it
// is the network namespace, instead of a new one.
func pin(dir, hostname string, network netns.NsHandle) error {
	if isPinned(dir) {
		return nil
	}
	if err := unpin(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	for _, kind := range namespaces {
		f, err := os.OpenFile(filepath.Join(dir, kind), os.O_CREATE|os.O_RDONLY, 0o444)
		if err != nil {
			return err
		}
		f.Close()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, and its namespaces, end with the goroutine
		done <- unshare(dir, hostname, network)
	}()
	return <-done
}

// unshare gives the calling thread new namespaces and pins them.
func unshare(dir, hostname string, network netns.NsHandle) error {
	kinds := unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	if network.IsOpen() {
		if err := netns.Set(network); err != nil {
			return fmt.Errorf("enter the node's network namespace: %w", err)
		}
	} else {
		kinds |= unix.CLONE_NEWNET
	}
	if err := unix.Unshare(kinds); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("hostname %q: %w", hostname, err)
	}
	// Containers run without CAP_NET_RAW and CAP_NET_BIND_SERVICE and still may
	// ping and listen on port 80: the namespace is theirs.
	sysctls := map[string]string{"ping_group_range": "0 2147483647", "ip_unprivileged_port_start": "0"}
	if network.IsOpen() {
		sysctls = nil // it is the node's
	}
	for name, value := range sysctls {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
			return err
		}
	}
	for _, kind := range namespaces {
		src := fmt.Sprintf("/proc/thread-self/ns/%s", kind)
		if err := unix.Mount(src, filepath.Join(dir, kind), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pin %s namespace: %w", kind, err)
		}
	}
	return nil
}

// isPinned reports whether dir holds a whole sandbox. After a reboot the files
// are still there, and plain.
func isPinned(dir string) bool {
	for _, kind := range namespaces {
		var st unix.Statfs_t
		if unix.Statfs(filepath.Join(dir, kind), &st) != nil || st.Type != unix.NSFS_MAGIC {
			return false
		}
	}
	return true
}

// unpin removes a sandbox, whatever there is of it.
func unpin(dir string) error {
	for _, kind := range namespaces {
		path := filepath.Join(dir, kind)
		for { // twice-mounted after a crash between two agents: take all off
			err := unix.Unmount(path, unix.MNT_DETACH)
			if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
				break
			}
			if err != nil {
				return fmt.Errorf("unmount %s: %w", path, err)
			}
		}
	}
	return os.RemoveAll(dir)
}

// pinned lists the sandboxes below root, by their directory: the pod's UID.
func pinned(root string) ([]string, error) {
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var uids []string
	for _, e := range entries {
		if e.IsDir() {
			uids = append(uids, e.Name())
		}
	}
	return uids, nil
}
