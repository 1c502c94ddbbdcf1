package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// create makes a file with an empty filesystem of size bytes. A file that is
// there is whole: it gets its name last.
func create(image string, size int64) error {
	if size <= 0 {
		return errors.New("its size is not known yet")
	}
	next := image + ".new"
	err := reserve(next, size)
	if err == nil {
		err = run("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1", next)
	}
	if err == nil {
		err = os.Rename(next, image)
	}
	if err != nil {
		return errors.Join(err, removeFile(next))
	}
	return nil
}

func removeFile(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// reserve makes a file size bytes long, and takes its blocks from the disk
// where the disk's filesystem can.
func reserve(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	// Asked first: an allocation that cannot be had takes all there is for a
	// while before it fails, and everybody else's writes fail with it.
	if err = fits(f, size); err == nil {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = f.Truncate(size)
	}
	if err != nil {
		return fmt.Errorf("reserve %d MiB of the node's disk: %w", size>>20, err)
	}
	return f.Sync()
}

// fits returns ENOSPC when the disk has no room for f to become size bytes large.
func fits(f *os.File, size int64) error {
	var disk unix.Statfs_t
	var now unix.Stat_t
	if err := errors.Join(unix.Fstatfs(int(f.Fd()), &disk), unix.Fstat(int(f.Fd()), &now)); err != nil {
		return err
	}
	if more := size - now.Blocks*512; more > int64(disk.Bavail)*disk.Bsize {
		return unix.ENOSPC
	}
	return nil
}

func sizeOf(path string) (int64, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// run runs a program of e2fsprogs.
func run(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if cmd.Err != nil { // it is not in our PATH
		for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
			if _, err := os.Stat(dir + name); err == nil {
				cmd.Path, cmd.Err = dir+name, nil
			}
		}
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%s is not on the node: install e2fsprogs", name)
	}
	text := strings.TrimSpace(string(out))
	if strings.Contains(text, "No space left on device") {
		return fmt.Errorf("%s: %w", name, unix.ENOSPC)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, text)
	}
	return nil
}

// mountImage mounts the filesystem of a file at point, which is made. Nothing
// is done where something is mounted already.
func mountImage(image, point string) error {
	if isMountPoint(point) {
		return nil
	}
	if err := os.MkdirAll(point, 0o711); err != nil {
		return err
	}
	device, release, err := attach(image)
	if err != nil {
		return fmt.Errorf("loop device: %w", err)
	}
	defer release()
	if err := unix.Mount(device, point, "ext4", unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	// As new: any user of a container may make files of its own, and what checks
	// whether it is empty finds it so.
	lost := filepath.Join(point, "lost+found")
	if fi, err := os.Lstat(lost); err == nil && fi.IsDir() {
		if os.Remove(lost) == nil {
			return os.Chmod(point, 0o777|os.ModeSticky)
		}
	}
	return nil
}

// growOffline makes an image that is not mounted larger.
func growOffline(image string, size int64) error {
	if err := reserve(image, size); err != nil {
		return err
	}
	// 1 is for errors that were corrected.
	err := run("e2fsck", "-f", "-p", image)
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() > 1) {
		return err
	}
	return run("resize2fs", image)
}

// resizeIoctl is EXT4_IOC_RESIZE_FS: the filesystem's new size in blocks.
const resizeIoctl = 0x40086610

// growOnline makes an image larger that is mounted at point.
func growOnline(image, point string, size int64) error {
	if !mayResize() {
		return errors.New("it grows once no pod uses it: the node's agent has no right to do it before (CAP_SYS_RESOURCE)")
	}
	if err := reserve(image, size); err != nil {
		return err
	}
	device, release, err := attach(image)
	if err != nil {
		return fmt.Errorf("loop device: %w", err)
	}
	defer release()
	if err := refresh(device); err != nil {
		return fmt.Errorf("loop device %s: %w", device, err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(point, &st); err != nil {
		return err
	}
	dir, err := os.Open(point)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := ioctlUint64(dir.Fd(), resizeIoctl, uint64(size/st.Bsize)); err != nil {
		return fmt.Errorf("grow the filesystem: %w", err)
	}
	return nil
}

// mayResize is whether we may grow a filesystem that is mounted.
func mayResize() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}
