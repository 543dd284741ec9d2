package main

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
)

// etcd contends by concurrency.Election: the oldest key below a prefix leads, each key lives as long as its session's lease,
// and who waits watches the key before its own.
func etcd(ctx context.Context, endpoint string, s seat, ttl time.Duration) error {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	session, err := concurrency.NewSession(client, concurrency.WithTTL(int(ttl/time.Second)))
	if err != nil {
		return err
	}
	prefix := "/bench/" + s.election
	election := concurrency.NewElection(session, prefix)
	go follow(ctx, client, prefix, fmt.Sprintf("%s/%x", prefix, session.Lease()))
	if err := election.Campaign(ctx, s.me); err != nil {
		return err
	}
	say("leads", now())
	select {
	case <-session.Done():
		say("stands", now())
	case <-s.give:
		at := now()
		if err := election.Resign(ctx); err != nil {
			return err
		}
		say("gives", at)
	}
	return nil
}

// follow says so as soon as its own key is there and another one is older.
func follow(ctx context.Context, client *clientv3.Client, prefix, own string) {
	for {
		oldest := clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend)
		found, err := client.Get(ctx, prefix, clientv3.WithPrefix(), oldest)
		if err == nil {
			for place, key := range found.Kvs {
				if string(key.Key) == own {
					if place > 0 {
						say("follows", 0)
					}
					return
				}
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}
