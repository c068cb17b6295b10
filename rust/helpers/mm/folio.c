// SPDX-License-Identifier: GPL-2.0

#include <linux/ksm.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <linux/vmstat.h>
#include <../../mm/internal.h>

__rust_helper struct page *rust_helper_pfn_to_page(unsigned long pfn)
{
	return pfn_to_page(pfn);
}

__rust_helper struct folio *rust_helper_page_folio(struct page *page)
{
	return page_folio(page);
}

__rust_helper struct page *rust_helper_folio_page(struct folio *folio,
						  unsigned long n)
{
	return folio_page(folio, n);
}

/* PageAnonExclusive() for a page that is none of hugetlb. */
__rust_helper bool rust_helper_page_anon_exclusive(const struct page *page)
{
	VM_WARN_ON_ONCE_PAGE(PageHuge(page), page);
	return test_bit(PG_anon_exclusive, &page->flags.f);
}

__rust_helper bool rust_helper_PageHWPoison(const struct page *page)
{
	return PageHWPoison(page);
}

__rust_helper bool rust_helper_folio_trylock(struct folio *folio)
{
	return folio_trylock(folio);
}

__rust_helper bool rust_helper_folio_test_locked(struct folio *folio)
{
	return folio_test_locked(folio);
}

__rust_helper unsigned int rust_helper_folio_order(const struct folio *folio)
{
	return folio_order(folio);
}

__rust_helper unsigned long rust_helper_folio_pfn(const struct folio *folio)
{
	return folio_pfn(folio);
}

__rust_helper bool
rust_helper_folio_test_partially_mapped(const struct folio *folio)
{
	return folio_test_partially_mapped(folio);
}

__rust_helper bool rust_helper_folio_test_large(const struct folio *folio)
{
	return folio_test_large(folio);
}

__rust_helper bool rust_helper_folio_test_ksm(const struct folio *folio)
{
	return folio_test_ksm(folio);
}

__rust_helper bool rust_helper_folio_test_waiters(const struct folio *folio)
{
	return folio_test_waiters(folio);
}

__rust_helper void rust_helper_folio_lock_large_mapcount(struct folio *folio)
{
	folio_lock_large_mapcount(folio);
}

__rust_helper void rust_helper_folio_unlock_large_mapcount(struct folio *folio)
{
	folio_unlock_large_mapcount(folio);
}

__rust_helper bool rust_helper_folio_mapped(const struct folio *folio)
{
	return folio_mapped(folio);
}

__rust_helper bool rust_helper_folio_test_anon(const struct folio *folio)
{
	return folio_test_anon(folio);
}

__rust_helper bool rust_helper_folio_test_swapcache(const struct folio *folio)
{
	return folio_test_swapcache(folio);
}

__rust_helper bool rust_helper_folio_is_zone_device(const struct folio *folio)
{
	return folio_is_zone_device(folio);
}

__rust_helper bool rust_helper_folio_maybe_mapped_shared(struct folio *folio)
{
	return folio_maybe_mapped_shared(folio);
}

__rust_helper int rust_helper_folio_ref_count(const struct folio *folio)
{
	return folio_ref_count(folio);
}

__rust_helper int rust_helper_folio_expected_ref_count(const struct folio *folio)
{
	return folio_expected_ref_count(folio);
}

__rust_helper bool rust_helper_folio_has_pincount(const struct folio *folio)
{
	return folio_has_pincount(folio);
}

__rust_helper int rust_helper_folio_pincount(const struct folio *folio)
{
	return atomic_read(&folio->_pincount);
}

__rust_helper void rust_helper_folio_pincount_dec(struct folio *folio)
{
	atomic_dec(&folio->_pincount);
}

/* As try_grab_folio() does with FOLL_PIN, but for the statistics. */
__rust_helper void rust_helper_folio_pin_uncounted(struct folio *folio)
{
	if (folio_has_pincount(folio)) {
		folio_ref_inc(folio);
		atomic_inc(&folio->_pincount);
	} else {
		folio_ref_add(folio, GUP_PIN_COUNTING_BIAS);
	}
}

/* Never drops the last reference. */
__rust_helper void rust_helper_folio_unpin_uncounted(struct folio *folio)
{
	if (folio_has_pincount(folio)) {
		atomic_dec(&folio->_pincount);
		folio_ref_dec(folio);
	} else {
		folio_ref_sub(folio, GUP_PIN_COUNTING_BIAS);
	}
}

__rust_helper void rust_helper_node_stat_mod_folio(struct folio *folio,
						   enum node_stat_item item,
						   long nr)
{
	node_stat_mod_folio(folio, item, nr);
}

__rust_helper int rust_helper_folio_nid(const struct folio *folio)
{
	return folio_nid(folio);
}

#ifndef CONFIG_SWAP
__rust_helper bool rust_helper_folio_free_swap(struct folio *folio)
{
	return folio_free_swap(folio);
}
#endif

__rust_helper void rust_helper_folio_get(struct folio *folio)
{
	folio_get(folio);
}

__rust_helper void rust_helper_folio_ref_sub(struct folio *folio, int nr)
{
	folio_ref_sub(folio, nr);
}

__rust_helper void
rust_helper_folios_remove_rmap_pte(struct folio **folios, unsigned int nr,
				   struct vm_area_struct *vma)
{
	folios_remove_rmap_pte(folios, nr, vma);
}

__rust_helper void rust_helper_folios_unlock_put(struct folio **folios,
						 unsigned int nr,
						 unsigned int refs)
{
	folios_unlock_put(folios, nr, refs);
}

__rust_helper void rust_helper_ClearPageAnonExclusive(struct page *page)
{
	ClearPageAnonExclusive(page);
}

__rust_helper void rust_helper_folio_put(struct folio *folio)
{
	folio_put(folio);
}

__rust_helper void rust_helper___folio_mark_uptodate(struct folio *folio)
{
	__folio_mark_uptodate(folio);
}

__rust_helper struct folio *rust_helper___folio_alloc(gfp_t gfp,
						      unsigned int order,
						      int nid,
						      nodemask_t *nodes)
{
	return __folio_alloc(gfp, order, nid, nodes);
}

__rust_helper int rust_helper_mem_cgroup_charge(struct folio *folio,
						struct mm_struct *mm, gfp_t gfp)
{
	return mem_cgroup_charge(folio, mm, gfp);
}

__rust_helper void
rust_helper_count_memcg_folio_events(struct folio *folio,
				     enum vm_event_item item, unsigned long nr)
{
	count_memcg_folio_events(folio, item, nr);
}

__rust_helper int rust_helper_copy_mc_user_highpage(struct page *to,
						    struct page *from,
						    unsigned long addr,
						    struct vm_area_struct *vma)
{
	return copy_mc_user_highpage(to, from, addr, vma);
}

__rust_helper void rust_helper_clear_user_highpage(struct page *page,
						   unsigned long addr)
{
	clear_user_highpage(page, addr);
}

/* Whether any PTE of it maps a zero page that KSM has put there. */
__rust_helper bool rust_helper_mm_has_ksm_zero_pages(struct mm_struct *mm)
{
#ifdef CONFIG_KSM
	return mm_ksm_zero_pages(mm) > 0;
#else
	return false;
#endif
}

__rust_helper void rust_helper_ksm_might_unmap_zero_page(struct mm_struct *mm,
							 pte_t pte)
{
	ksm_might_unmap_zero_page(mm, pte);
}

__rust_helper void rust_helper_add_anon_rss(struct mm_struct *mm, long pages)
{
	add_mm_counter(mm, MM_ANONPAGES, pages);
}

__rust_helper void rust_helper_count_vm_event(enum vm_event_item item)
{
	count_vm_event(item);
}

__rust_helper void rust_helper_count_mthp_stat(int order,
					       enum mthp_stat_item item)
{
	count_mthp_stat(order, item);
}

__rust_helper bool rust_helper_node_reclaim_enabled(void)
{
	return node_reclaim_enabled();
}

__rust_helper nodemask_t rust_helper_node_online_mask(void)
{
	return node_states[N_ONLINE];
}

__rust_helper int rust_helper_node_distance_of(int a, int b)
{
	return node_distance(a, b);
}

__rust_helper void rust_helper_lru_add_drain(void)
{
	lru_add_drain();
}

__rust_helper void rust_helper_mlock_drain_local(void)
{
	mlock_drain_local();
}
