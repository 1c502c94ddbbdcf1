//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"

	"github.com/clusterd/terraform-provider-clusterd/nodeagent/runtime/containerd/journal"
)

// service is containerd's task service with a book kept about each container.
type service struct {
	taskapi.TTRPCTaskService
	books *books
}

func (s *service) RegisterTTRPC(server *ttrpc.Server) error {
	taskapi.RegisterTTRPCTaskService(server, s)
	return nil
}

func (s *service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	notes, err := annotations(r.Bundle)
	if err != nil {
		return nil, err
	}
	b := &book{id: r.ID, dir: notes[journal.DirAnnotation], told: make(chan struct{})}
	if path := notes[journal.LogAnnotation]; path != "" && r.Stdout == "" && r.Stderr == "" && !r.Terminal {
		l, err := openLog(path)
		if err != nil {
			return nil, fmt.Errorf("log of container %s: %w", r.ID, err)
		}
		b.log = l
		r.Stdout, r.Stderr = l.paths()
		defer l.handOver()
	}
	b.lease = notes[journal.LeaseAnnotation]
	if err := mayRun(r.ID, b.lease); err != nil {
		return nil, err
	}
	s.books.add(b)
	response, err := s.TTRPCTaskService.Create(ctx, r)
	if err != nil {
		s.books.drop(r.ID)
		return nil, err
	}
	b.created(int(response.Pid))
	if b.lease != "" {
		go s.guard(r.ID, b.lease, b.told)
	}
	return response, nil
}

func (s *service) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	if b := s.books.get(r.ID); b != nil && r.ExecID == "" {
		if err := mayRun(r.ID, b.lease); err != nil {
			return nil, err
		}
		if err := b.started(); err != nil {
			return nil, fmt.Errorf("journal of container %s: %w", r.ID, err)
		}
	}
	return s.TTRPCTaskService.Start(ctx, r)
}

func (s *service) State(ctx context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	state, err := s.TTRPCTaskService.State(ctx, r)
	if b := s.books.get(r.ID); err == nil && b != nil && r.ExecID == "" && state.Status == tasktypes.Status_STOPPED {
		b.settled(ctx)
	}
	return state, err
}

func (s *service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	response, err := s.TTRPCTaskService.Delete(ctx, r)
	if err == nil && r.ExecID == "" {
		s.books.drop(r.ID)
	}
	return response, err
}

func annotations(bundle string) (map[string]string, error) {
	b, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, err
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(b, &spec); err != nil {
		return nil, fmt.Errorf("%s/config.json: %w", bundle, err)
	}
	return spec.Annotations, nil
}
