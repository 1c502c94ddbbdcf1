package daemon

import "runtime/debug"

// version is set by the build: -ldflags "-X …/internal/daemon.version=0.1.0".
var version = ""

// Version is the program's version: what the build stamped, or the commit it
// was built from, or "dev".
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				return "dev-" + s.Value[:12]
			}
		}
	}
	return "dev"
}

// UserAgent is how a program of this version names itself to a server.
func UserAgent(program string) string { return program + "/" + Version() }
