/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Static inlines and macros that Rust cannot reach, as functions of their own.
 *
 * Each is the C name with sdp_helper_ before it, and does that with no more than the
 * flags that all its callers want.
 */
#ifndef SDP_HELPERS_H
#define SDP_HELPERS_H

/* net */
#include <linux/bpf-cgroup.h>
#include <linux/inet_diag.h>
#include <linux/mm.h>
#include <linux/netlink.h>
#include <linux/pipe_fs_i.h>
#include <linux/poll.h>
#include <linux/seq_file.h>
#include <linux/skbuff.h>
#include <linux/sockptr.h>
#include <linux/workqueue.h>
#include <net/sock.h>
#include <net/tcp.h>

/* What bindgen takes for no constants: there is a cast, or a size, in them. */
enum {
	SDP_HELPER_EPOLLIN = (__force u32)EPOLLIN,
	SDP_HELPER_EPOLLPRI = (__force u32)EPOLLPRI,
	SDP_HELPER_EPOLLOUT = (__force u32)EPOLLOUT,
	SDP_HELPER_EPOLLERR = (__force u32)EPOLLERR,
	SDP_HELPER_EPOLLHUP = (__force u32)EPOLLHUP,
	SDP_HELPER_EPOLLRDNORM = (__force u32)EPOLLRDNORM,
	SDP_HELPER_EPOLLWRNORM = (__force u32)EPOLLWRNORM,
	SDP_HELPER_EPOLLRDHUP = (__force u32)EPOLLRDHUP,
	SDP_HELPER_SOCK_MIN_RCVBUF = SOCK_MIN_RCVBUF,
	SDP_HELPER_TCP_LINGER2_MAX = TCP_FIN_TIMEOUT_MAX / HZ,
};

void sdp_helper_lock_sock(struct sock *sk);
void sdp_helper_sock_hold(struct sock *sk);
void sdp_helper_sock_put(struct sock *sk);
void sdp_helper_sock_orphan(struct sock *sk);
void sdp_helper_sock_graft(struct sock *sk, struct socket *sock);
bool sdp_helper_sock_flag(const struct sock *sk, enum sock_flags flag);
void sdp_helper_sock_valbool_flag(struct sock *sk, enum sock_flags bit,
				  int valbool);
#ifdef CONFIG_CGROUP_BPF
bool sdp_helper_cgroup_bpf_sock_enabled(struct sock *sk,
					enum cgroup_bpf_attach_type type);
int sdp_helper_filter_syn(struct sock *sk, bool egress, bool ack,
			  int interface);
#endif
struct net *sdp_helper_sock_net(const struct sock *sk);
wait_queue_head_t *sdp_helper_sk_sleep(struct sock *sk);
void sdp_helper_sock_poll_wait(struct file *file, struct socket *sock,
			       struct poll_table_struct *p);
int sdp_helper_sock_error(struct sock *sk);
void sdp_helper_sk_send_sigurg(struct sock *sk);
void sdp_helper_sk_async_nospace(struct sock *sk);
void sdp_helper_sk_wake_async_out(struct sock *sk);
void sdp_helper_sk_wake_async_end(struct sock *sk, bool both);
void sdp_helper_sk_async_waitdata(struct sock *sk, bool waits);
int sdp_helper_find_route4(struct sock *sk, __be32 daddr, __be16 dport,
			   __be32 *saddr, __be16 sport);
int sdp_helper_find_route6(struct sock *sk, const struct in6_addr *daddr,
			   __be16 dport, struct in6_addr *saddr, __be16 sport);
void sdp_helper_sk_find_route(struct sock *sk);
bool sdp_helper_signal_pending(struct task_struct *task);
long sdp_helper_sock_rcvtimeo(const struct sock *sk, bool noblock);
long sdp_helper_sock_sndtimeo(const struct sock *sk, bool noblock);
int sdp_helper_sock_max_wmem(const struct sock *sk);
int sdp_helper_sock_max_rmem(const struct sock *sk);
u8 sdp_helper_pmtudisc(const struct net *net);
bool sdp_helper_is_fastopen_client(const struct net *net);

/* An end of a connection; an address of IPv4 is mapped to IPv6. */
struct sdp_end {
	struct in6_addr ip;
	__be16 port;
};

int sdp_helper_reuseport_join(struct sock *sk, struct sock *other, bool any);
const void *sdp_helper_reuseport_select(struct sock *sk,
					const struct sdp_end *peer,
					const struct sdp_end *own,
					int interface, u32 hash);

/* What SO_BUSY_POLL and its like set. */
struct sdp_busy_poll {
	unsigned int usecs;
	u16 budget;
	bool prefer;
};

struct sdp_busy_poll sdp_helper_busy_poll(const struct sock *sk);
void sdp_helper_set_busy_poll(struct sock *sk, const struct sdp_busy_poll *all);
int sdp_helper_sock_cmsg_send(struct sock *sk, struct msghdr *msg);
void sdp_helper_put_tx_stamp(struct sock *sk, u32 stage, u32 key,
			     const void *stats, u32 queued);
int sdp_helper_sock_rcvlowat(const struct sock *sk, int waitall, int len);
int sdp_helper_sock_intr_errno(long timeo);
int sdp_helper_recv_error(struct sock *sk, struct msghdr *msg, int len,
			  bool is_v6);
bool sdp_helper_skb_queue_empty_lockless(const struct sk_buff_head *list);
void sdp_helper_net_zcopy_get(struct ubuf_info *uarg);
void sdp_helper_get_page(struct page *page);
void sdp_helper_put_page(struct page *page);
bool sdp_helper_pipe_is_full(const struct pipe_inode_info *pipe);
ssize_t sdp_helper_add_to_pipe(struct pipe_inode_info *pipe, struct page *page,
			       unsigned int offset, unsigned int len);
void *sdp_helper_net_generic(const struct net *net, unsigned int id);
bool sdp_helper_proc_create_net_single(const char *name, struct net *net,
				       int (*show)(struct seq_file *, void *),
				       void *value);
void sdp_helper_remove_proc_entry(const char *name, struct net *net);
void *sdp_helper_seq_value(struct seq_file *seq);
bool sdp_helper_proc_create_net(const char *name, struct net *net,
				const struct seq_operations *ops, void *value);
u32 sdp_helper_seq_uid(struct seq_file *seq, u32 kuid);
int sdp_helper_this_cpu(void);
void sdp_helper_sock_prot_inuse_add(const struct sock *sk, int val);
unsigned long sdp_helper_sock_i_ino(const struct sock *sk);
u64 sdp_helper_sk_cgroup_id(const struct sock *sk);
void sdp_helper_inherit_cgroup(const struct sock *from, struct sock *to);
u64 sdp_helper_hash(u64 first, u64 second, u64 third);
const void *sdp_helper_sk_memcg(const struct sock *sk);
unsigned long sdp_helper_sk_memcg_room(const struct sock *sk);
bool sdp_helper_sk_memcg_reclaim(const struct sock *sk, unsigned int pages);
bool sdp_helper_sk_under_memory_pressure(const struct sock *sk);
u32 sdp_helper_responsible_uid(void);
void sdp_helper_sk_meminfo(const struct sock *sk,
			   struct inet_diag_meminfo *info);
struct nlmsghdr *sdp_helper_nlmsg_put(struct sk_buff *skb,
				      struct sk_buff *request,
				      const struct nlmsghdr *nlh, int payload,
				      int flags);
void sdp_helper_nlmsg_end(struct sk_buff *skb, struct nlmsghdr *nlh);
void sdp_helper_nlmsg_cancel(struct sk_buff *skb, struct nlmsghdr *nlh);
int sdp_helper_nla_put_u64(struct sk_buff *skb, int type, u64 value, int pad);
struct sk_buff *sdp_helper_nlmsg_new(size_t payload);
void sdp_helper_nlmsg_free(struct sk_buff *skb);
struct net *sdp_helper_skb_net(const struct sk_buff *skb);
int sdp_helper_nlmsg_reply(struct sk_buff *skb, struct sk_buff *request);
u32 sdp_helper_netlink_uid(struct sk_buff *request, u32 kuid);
int sdp_helper_netlink_dump_start(struct sk_buff *skb,
				  const struct nlmsghdr *nlh,
				  int (*dump)(struct sk_buff *,
					      struct netlink_callback *));
bool sdp_helper_net_admin(const struct net *net);
int sdp_helper_copy_from_sockptr(void *dst, sockptr_t src, size_t size);
int __percpu *sdp_helper_per_cpu_fw_alloc(void);
struct net *sdp_helper_get_net(struct net *net);
void sdp_helper_put_net(struct net *net);
int sdp_helper_somaxconn(const struct net *net);

/* net.ipv4.tcp_*; times are in milliseconds. */
struct sdp_helper_tcp_sysctls {
	unsigned int keepalive_time;
	unsigned int keepalive_intvl;
	unsigned int keepalive_probes;
	unsigned int retries2;
	unsigned int syn_retries;
	unsigned int rto_max;
};

void sdp_helper_tcp_sysctls(const struct net *net,
			    struct sdp_helper_tcp_sysctls *to);
bool sdp_helper_is_local(struct net *net, __be32 addr, unsigned int interface);
__be32 sdp_helper_own_addr(struct net *net, unsigned int at);
bool sdp_helper_is_local6(struct net *net, const struct in6_addr *addr,
			  unsigned int interface);
unsigned int sdp_helper_l3mdev_master(struct net *net, unsigned int interface);
bool sdp_helper_tcp_l3mdev_accept(const struct net *net);
bool sdp_helper_inet_can_nonlocal_bind(struct sock *sk);
bool sdp_helper_ipv6_can_nonlocal_bind(struct sock *sk);
bool sdp_helper_has_interface(struct net *net, unsigned int index);
bool sdp_helper_bindv6only(const struct net *net);
int sdp_helper_own_addr6(struct net *net, unsigned int at,
			 struct in6_addr *addr);
bool sdp_helper_may_bind(struct net *net, unsigned short port);
bool sdp_helper_has_reserved_ports(const struct net *net);
bool sdp_helper_is_reserved(struct net *net, unsigned short port);
void sdp_helper_INIT_DELAYED_WORK(struct delayed_work *work, work_func_t func);
void sdp_helper_INIT_WORK(struct work_struct *work, work_func_t func);
bool sdp_helper_queue_work(struct workqueue_struct *wq,
			   struct work_struct *work);
struct workqueue_struct *sdp_helper_alloc_workqueue(const char *name,
						    int max_active);

void sdp_helper_sk_wake_calls(struct sock *sk);
bool sdp_helper_signal_pending_state(unsigned int state,
				     struct task_struct *task);

/* mm */
#include <linux/mm.h>
#include <linux/uio.h>

bool sdp_helper_iov_iter_extract_will_pin(const struct iov_iter *iter);
bool sdp_helper_iov_iter_is_bvec(const struct iov_iter *iter);
unsigned long sdp_helper_iov_iter_addr(const struct iov_iter *iter);
size_t sdp_helper_iov_iter_count(const struct iov_iter *iter);
bool sdp_helper_sendpage_ok(struct page *page);

/* rdma */
#include <linux/cred.h>
#include <linux/dma-direction.h>
#include <linux/gfp.h>
#include <linux/spinlock.h>
#include <rdma/ib_sa.h>
#include <rdma/ib_verbs.h>

void sdp_helper_spin_lock_bh(spinlock_t *lock);
void sdp_helper_spin_unlock_bh(spinlock_t *lock);
bool sdp_helper_spin_trylock_bh(spinlock_t *lock);
struct page *sdp_helper_alloc_pages(gfp_t gfp, unsigned int order);
void *sdp_helper_page_address(struct page *page);
bool sdp_helper_ib_device_try_get(struct ib_device *dev);
bool sdp_helper_rdma_cap_iw_cm(struct ib_device *dev);
void sdp_helper_ib_dealloc_pd(struct ib_pd *pd);
int sdp_helper_path_mtu(const struct sa_path_rec *rec);
u8 *sdp_helper_sa_path_get_dmac(struct sa_path_rec *rec);
__be32 sdp_helper_sa_path_get_dlid(struct sa_path_rec *rec);
const struct cred *sdp_helper_override_kernel_creds(void);
void sdp_helper_revert_creds(const struct cred *old);
u64 sdp_helper_ib_dma_map_page(struct ib_device *dev, struct page *page,
			       unsigned long offset, size_t size,
			       enum dma_data_direction direction);
int sdp_helper_ib_dma_mapping_error(struct ib_device *dev, u64 addr);
u64 sdp_helper_ib_dma_map_single(struct ib_device *dev, void *addr, size_t size,
				 enum dma_data_direction direction);
void sdp_helper_ib_dma_unmap_single(struct ib_device *dev, u64 addr,
				    size_t size,
				    enum dma_data_direction direction);
void sdp_helper_ib_dma_unmap_page(struct ib_device *dev, u64 addr, size_t size,
				  enum dma_data_direction direction);
void sdp_helper_ib_dma_sync_single_for_device(struct ib_device *dev, u64 addr,
					      size_t size,
					      enum dma_data_direction direction);
int sdp_helper_ib_dma_map_sgtable(struct ib_device *dev, struct sg_table *sgt,
				  enum dma_data_direction direction);
void sdp_helper_ib_dma_unmap_sgtable(struct ib_device *dev,
				     struct sg_table *sgt,
				     enum dma_data_direction direction);
unsigned int sdp_helper_ib_dma_max_seg_size(struct ib_device *dev);
int sdp_helper_ib_dereg_mr(struct ib_mr *mr);
void sdp_helper_ib_next_fast_reg_key(struct ib_mr *mr);
int sdp_helper_ib_post_send(struct ib_qp *qp, const struct ib_send_wr *wr,
			    const struct ib_send_wr **bad_wr);
int sdp_helper_ib_post_recv(struct ib_qp *qp, const struct ib_recv_wr *wr,
			    const struct ib_recv_wr **bad_wr);

#endif /* SDP_HELPERS_H */
