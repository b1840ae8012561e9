// SPDX-License-Identifier: GPL-2.0
/*
 * Static inlines and macros that Rust cannot reach, as functions of their own.
 */
#include "helpers.h"

#include <linux/cred.h>
#include <linux/inetdevice.h>
#include <linux/proc_fs.h>
#include <linux/sched/signal.h>
#include <linux/splice.h>
#include <linux/seq_file_net.h>
#include <net/net_namespace.h>
#include <net/netns/generic.h>
#include <net/route.h>

/* net */

void sdp_helper_lock_sock(struct sock *sk)
{
	lock_sock(sk);
}

void sdp_helper_sock_hold(struct sock *sk)
{
	sock_hold(sk);
}

void sdp_helper_sock_put(struct sock *sk)
{
	sock_put(sk);
}

void sdp_helper_sock_orphan(struct sock *sk)
{
	sock_orphan(sk);
}

void sdp_helper_sock_graft(struct sock *sk, struct socket *sock)
{
	sock_graft(sk, sock);
}

bool sdp_helper_sock_flag(const struct sock *sk, enum sock_flags flag)
{
	return sock_flag(sk, flag);
}

void sdp_helper_sock_valbool_flag(struct sock *sk, enum sock_flags bit,
				  int valbool)
{
	sock_valbool_flag(sk, bit, valbool);
}

struct net *sdp_helper_sock_net(const struct sock *sk)
{
	return sock_net(sk);
}

/* A sock without a file has none. */
wait_queue_head_t *sdp_helper_sk_sleep(struct sock *sk)
{
	return rcu_access_pointer(sk->sk_wq) ? sk_sleep(sk) : NULL;
}

void sdp_helper_sock_poll_wait(struct file *file, struct socket *sock,
			       struct poll_table_struct *p)
{
	sock_poll_wait(file, sock, p);
}

int sdp_helper_sock_error(struct sock *sk)
{
	return sock_error(sk);
}

long sdp_helper_sock_rcvtimeo(const struct sock *sk, bool noblock)
{
	return sock_rcvtimeo(sk, noblock);
}

int sdp_helper_sock_max_wmem(const struct sock *sk)
{
	return READ_ONCE(sock_net(sk)->ipv4.sysctl_tcp_wmem[2]);
}

long sdp_helper_sock_sndtimeo(const struct sock *sk, bool noblock)
{
	return sock_sndtimeo(sk, noblock);
}

int sdp_helper_sock_rcvlowat(const struct sock *sk, int waitall, int len)
{
	return sock_rcvlowat(sk, waitall, len);
}

int sdp_helper_sock_intr_errno(long timeo)
{
	return sock_intr_errno(timeo);
}

bool sdp_helper_skb_queue_empty_lockless(const struct sk_buff_head *list)
{
	return skb_queue_empty_lockless(list);
}

void sdp_helper_net_zcopy_get(struct ubuf_info *uarg)
{
	net_zcopy_get(uarg);
}

void sdp_helper_get_page(struct page *page)
{
	get_page(page);
}

void sdp_helper_put_page(struct page *page)
{
	put_page(page);
}

bool sdp_helper_pipe_is_full(const struct pipe_inode_info *pipe)
{
	return pipe_is_full(pipe);
}

/* The reference of the page goes to the pipe, or with a failure. */
ssize_t sdp_helper_add_to_pipe(struct pipe_inode_info *pipe, struct page *page,
			       unsigned int offset, unsigned int len)
{
	struct pipe_buffer buf = {
		.page = page,
		.offset = offset,
		.len = len,
		.ops = &nosteal_pipe_buf_ops,
	};

	return add_to_pipe(pipe, &buf);
}

void *sdp_helper_net_generic(const struct net *net, unsigned int id)
{
	return net_generic(net, id);
}

/* Without procfs there is no file, and nothing wrong. */
bool sdp_helper_proc_create_net_single(const char *name, struct net *net,
				       int (*show)(struct seq_file *, void *))
{
	return !IS_ENABLED(CONFIG_PROC_FS) ||
	       proc_create_net_single(name, 0444, net->proc_net, show, NULL);
}

void sdp_helper_remove_proc_entry(const char *name, struct net *net)
{
	remove_proc_entry(name, net->proc_net);
}

struct net *sdp_helper_seq_file_single_net(struct seq_file *seq)
{
	return seq_file_single_net(seq);
}

int sdp_helper_copy_from_sockptr(void *dst, sockptr_t src, size_t size)
{
	return copy_from_sockptr(dst, src, size);
}

/* Pages of socket memory that a CPU counts by itself. */
static DEFINE_PER_CPU(int, sdp_memory_per_cpu_fw_alloc);

int __percpu *sdp_helper_per_cpu_fw_alloc(void)
{
	return &sdp_memory_per_cpu_fw_alloc;
}

struct net *sdp_helper_get_net(struct net *net)
{
	return get_net(net);
}

void sdp_helper_put_net(struct net *net)
{
	put_net(net);
}

int sdp_helper_somaxconn(const struct net *net)
{
	return READ_ONCE(net->core.sysctl_somaxconn);
}

bool sdp_helper_is_local(struct net *net, __be32 addr)
{
	return inet_addr_type(net, addr) == RTN_LOCAL;
}

u8 *sdp_helper_sa_path_get_dmac(struct sa_path_rec *rec)
{
	return sa_path_get_dmac(rec);
}

__be32 sdp_helper_sa_path_get_dlid(struct sa_path_rec *rec)
{
	return sa_path_get_dlid(rec);
}

const struct cred *sdp_helper_override_kernel_creds(void)
{
	return override_creds(kernel_cred());
}

void sdp_helper_revert_creds(const struct cred *old)
{
	revert_creds(old);
}

__be32 sdp_helper_own_addr(struct net *net, unsigned int at)
{
	const struct in_device *in_dev;
	const struct in_ifaddr *ifa;
	struct net_device *dev;
	__be32 addr = 0;

	rcu_read_lock();
	for_each_netdev_rcu(net, dev) {
		in_dev = __in_dev_get_rcu(dev);
		if (!in_dev || dev->flags & IFF_LOOPBACK ||
		    !(dev->flags & IFF_UP))
			continue;
		in_dev_for_each_ifa_rcu(ifa, in_dev) {
			if (!at--) {
				addr = ifa->ifa_local;
				goto found;
			}
		}
	}
found:
	rcu_read_unlock();
	return addr;
}

bool sdp_helper_may_bind(struct net *net, unsigned short port)
{
	return !inet_port_requires_bind_service(net, port) ||
	       ns_capable(net->user_ns, CAP_NET_BIND_SERVICE);
}

bool sdp_helper_is_reserved(struct net *net, unsigned short port)
{
	return inet_is_local_reserved_port(net, port);
}

void sdp_helper_INIT_DELAYED_WORK(struct delayed_work *work, work_func_t func)
{
	INIT_DELAYED_WORK(work, func);
}

void sdp_helper_INIT_WORK(struct work_struct *work, work_func_t func)
{
	INIT_WORK(work, func);
}

bool sdp_helper_queue_work(struct workqueue_struct *wq,
			   struct work_struct *work)
{
	return queue_work(wq, work);
}

struct workqueue_struct *sdp_helper_alloc_workqueue(const char *name)
{
	return alloc_workqueue("%s", WQ_UNBOUND, 0, name);
}

void sdp_helper_sk_wake_up_all(struct sock *sk)
{
	struct socket_wq *wq;

	rcu_read_lock();
	wq = rcu_dereference(sk->sk_wq);
	if (skwq_has_sleeper(wq))
		wake_up_all(&wq->wait);
	rcu_read_unlock();
}

bool sdp_helper_signal_pending_state(unsigned int state,
				     struct task_struct *task)
{
	return signal_pending_state(state, task);
}

/* mm */

bool sdp_helper_iov_iter_extract_will_pin(const struct iov_iter *iter)
{
	return iov_iter_extract_will_pin(iter);
}

bool sdp_helper_iov_iter_is_bvec(const struct iov_iter *iter)
{
	return iov_iter_is_bvec(iter);
}

/* Where a program's memory starts; 0 for the kernel's own. */
unsigned long sdp_helper_iov_iter_addr(const struct iov_iter *iter)
{
	return user_backed_iter(iter) ? (unsigned long)iter_iov_addr(iter) : 0;
}

size_t sdp_helper_iov_iter_count(const struct iov_iter *iter)
{
	return iov_iter_count(iter);
}

bool sdp_helper_sendpage_ok(struct page *page)
{
	return sendpage_ok(page);
}

/* rdma */

void sdp_helper_spin_lock_bh(spinlock_t *lock)
{
	spin_lock_bh(lock);
}

void sdp_helper_spin_unlock_bh(spinlock_t *lock)
{
	spin_unlock_bh(lock);
}

bool sdp_helper_spin_trylock_bh(spinlock_t *lock)
{
	return spin_trylock_bh(lock);
}

/* Compound, so that who gets a page of them can hold it; the caller handles failure. */
struct page *sdp_helper_alloc_pages(gfp_t gfp, unsigned int order)
{
	return alloc_pages(gfp | __GFP_COMP | __GFP_NOWARN, order);
}

void *sdp_helper_page_address(struct page *page)
{
	return page_address(page);
}

bool sdp_helper_ib_device_try_get(struct ib_device *dev)
{
	return ib_device_try_get(dev);
}

bool sdp_helper_rdma_cap_iw_cm(struct ib_device *dev)
{
	return rdma_cap_iw_cm(dev, rdma_start_port(dev));
}

void sdp_helper_ib_dealloc_pd(struct ib_pd *pd)
{
	ib_dealloc_pd(pd);
}

u64 sdp_helper_ib_dma_map_page(struct ib_device *dev, struct page *page,
			       unsigned long offset, size_t size,
			       enum dma_data_direction direction)
{
	return ib_dma_map_page(dev, page, offset, size, direction);
}

int sdp_helper_ib_dma_mapping_error(struct ib_device *dev, u64 addr)
{
	return ib_dma_mapping_error(dev, addr);
}

u64 sdp_helper_ib_dma_map_single(struct ib_device *dev, void *addr, size_t size,
				 enum dma_data_direction direction)
{
	return ib_dma_map_single(dev, addr, size, direction);
}

void sdp_helper_ib_dma_unmap_single(struct ib_device *dev, u64 addr,
				    size_t size,
				    enum dma_data_direction direction)
{
	ib_dma_unmap_single(dev, addr, size, direction);
}

void sdp_helper_ib_dma_unmap_page(struct ib_device *dev, u64 addr, size_t size,
				  enum dma_data_direction direction)
{
	ib_dma_unmap_page(dev, addr, size, direction);
}

void sdp_helper_ib_dma_sync_single_for_cpu(struct ib_device *dev, u64 addr,
					   size_t size,
					   enum dma_data_direction direction)
{
	ib_dma_sync_single_for_cpu(dev, addr, size, direction);
}

void sdp_helper_ib_dma_sync_single_for_device(struct ib_device *dev, u64 addr,
					      size_t size,
					      enum dma_data_direction direction)
{
	ib_dma_sync_single_for_device(dev, addr, size, direction);
}

int sdp_helper_ib_dma_map_sgtable(struct ib_device *dev, struct sg_table *sgt,
				  enum dma_data_direction direction)
{
	return ib_dma_map_sgtable_attrs(dev, sgt, direction, 0);
}

void sdp_helper_ib_dma_unmap_sgtable(struct ib_device *dev,
				     struct sg_table *sgt,
				     enum dma_data_direction direction)
{
	ib_dma_unmap_sgtable_attrs(dev, sgt, direction, 0);
}

unsigned int sdp_helper_ib_dma_max_seg_size(struct ib_device *dev)
{
	return ib_dma_max_seg_size(dev);
}

int sdp_helper_ib_dereg_mr(struct ib_mr *mr)
{
	return ib_dereg_mr(mr);
}

/* A key of its own for each registration. */
void sdp_helper_ib_next_fast_reg_key(struct ib_mr *mr)
{
	ib_update_fast_reg_key(mr, ib_inc_rkey(mr->rkey));
}

int sdp_helper_ib_post_send(struct ib_qp *qp, const struct ib_send_wr *wr,
			    const struct ib_send_wr **bad_wr)
{
	return ib_post_send(qp, wr, bad_wr);
}

int sdp_helper_ib_post_recv(struct ib_qp *qp, const struct ib_recv_wr *wr,
			    const struct ib_recv_wr **bad_wr)
{
	return ib_post_recv(qp, wr, bad_wr);
}
