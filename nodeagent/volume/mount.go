package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mountHost shows a directory of the node at point. The directory is opened
// part by part, and no part may be a symbolic link: what is shown is what the
// namespace was allowed, whatever was put in its place meanwhile.
func mountHost(dir, point string) error {
	if isMountPoint(point) {
		return nil
	}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(unix.AT_FDCWD, dir, &how)
	switch {
	case errors.Is(err, unix.ELOOP):
		return fmt.Errorf("host path %s: a part of it is a symbolic link on the node: name the directory it leads to", dir)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("host path %s is not a directory of the node", dir)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("host path %s does not exist on the node", dir)
	case err != nil:
		return fmt.Errorf("host path %s: %w", dir, err)
	}
	defer unix.Close(fd)
	if err := os.MkdirAll(point, 0o711); err != nil {
		return err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), point, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("host path %s: mount: %w", dir, err)
	}
	return nil
}

// isMountPoint reports whether something is mounted at path.
func isMountPoint(path string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// unmount takes off all that is mounted at a directory and removes it, empty as
// it then is: what is in a mount is never removed.
func unmount(point string, flags int) error {
	for isMountPoint(point) {
		if err := unix.Unmount(point, flags); err != nil {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	if err := os.Remove(point); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// attach returns a loop device of the file: the one it has, or a new one, that
// goes by itself once it is neither mounted nor held. Two devices of one file
// would be two filesystems over the same blocks.
func attach(image string) (device string, release func(), err error) {
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	loops, err := os.ReadDir("/sys/block")
	if err != nil {
		return "", nil, err
	}
	for _, e := range loops {
		if _, err := os.Stat("/sys/block/" + e.Name() + "/loop/backing_file"); err != nil {
			continue // no loop device, or a free one
		}
		d, err := os.OpenFile("/dev/"+e.Name(), os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if backs(d, f) {
			return d.Name(), func() { d.Close() }, nil
		}
		d.Close()
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", nil, err
	}
	defer control.Close()
	for range 64 { // others look for free devices, too
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", nil, err
		}
		d, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return "", nil, err
		}
		conf := unix.LoopConfig{Fd: uint32(f.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		copy(conf.Info.File_name[:len(conf.Info.File_name)-1], image)
		if err = unix.IoctlLoopConfigure(int(d.Fd()), &conf); err == nil {
			return d.Name(), func() { d.Close() }, nil
		}
		d.Close()
		if !errors.Is(err, unix.EBUSY) {
			return "", nil, err
		}
	}
	return "", nil, errors.New("no device is free")
}

// backs reports whether file is what a loop device shows.
func backs(device, file *os.File) bool {
	info, err := unix.IoctlLoopGetStatus64(int(device.Fd()))
	if err != nil {
		return false
	}
	var st unix.Stat_t
	return unix.Fstat(int(file.Fd()), &st) == nil && info.Inode == st.Ino && info.Device == st.Dev
}

// refresh makes a loop device see that its file has grown.
func refresh(device string) error {
	d, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.IoctlSetInt(int(d.Fd()), unix.LOOP_SET_CAPACITY, 0)
}

func ioctlUint64(fd uintptr, request uint, value uint64) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, uintptr(request), uintptr(unsafe.Pointer(&value))); errno != 0 {
		return errno
	}
	return nil
}
