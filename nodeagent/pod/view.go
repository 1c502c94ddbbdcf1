package pod

import (
	"maps"
	"sync"

	"github.com/clusterd/terraform-provider-clusterd/internal/api"
)

// View is what others may know of a pod on the node.
type View struct {
	Ref        api.Ref
	UID        string
	IP         string
	Phase      api.Phase
	Containers map[string]Run
	Images     []string // references of the images it needs
}

// Run is the current run of a container.
type Run struct {
	ID      string
	Attempt int
	Running bool
	Done    bool // of an init container that is not to run again
}

// views are the pods' views, for those that serve logs and exec.
type views struct {
	mu      sync.Mutex
	pods    map[string]View
	changed chan struct{} // closed and replaced with every change
}

func (v *views) set(uid string, view View) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if old, ok := v.pods[uid]; ok && old.Phase == view.Phase && old.IP == view.IP && maps.Equal(old.Containers, view.Containers) {
		return
	}
	v.pods[uid] = view
	v.tell()
}

func (v *views) remove(uid string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.pods, uid)
	v.tell()
}

func (v *views) tell() {
	close(v.changed)
	v.changed = make(chan struct{})
}

// View returns what is known of a pod of the node, and a channel that is
// closed when that of any pod changes.
func (s *Workers) View(uid string) (v View, ok bool, changed <-chan struct{}) {
	s.views.mu.Lock()
	defer s.views.mu.Unlock()
	v, ok = s.views.pods[uid]
	return v, ok, s.views.changed
}

// Images returns the images that pods of the node need.
func (s *Workers) Images() []string {
	s.views.mu.Lock()
	defer s.views.mu.Unlock()
	var all []string
	for _, v := range s.views.pods {
		if !v.Phase.Ended() {
			all = append(all, v.Images...)
		}
	}
	return all
}

// Views returns what is known of all pods of the node.
func (s *Workers) Views() map[string]View {
	s.views.mu.Lock()
	defer s.views.mu.Unlock()
	return maps.Clone(s.views.pods)
}
