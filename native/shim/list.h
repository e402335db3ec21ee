/* Doubly linked lists whose links lie inside their members. */
#ifndef CAISSON_LIST_H
#define CAISSON_LIST_H

#include <stddef.h>

struct list {
	struct list *next, *prev;
};

#define container_of(member_pointer, type, member) ((type *)((char *)(member_pointer)-offsetof(type, member)))
#define list_each(at, head) for (struct list *at = (head)->next, *at##_next = at->next; at != (head); at = at##_next, at##_next = at->next)

static inline void list_init(struct list *head)
{
	head->next = head->prev = head;
}

static inline void list_append(struct list *head, struct list *link)
{
	link->prev = head->prev;
	link->next = head;
	head->prev->next = link;
	head->prev = link;
}

/* Harmless on a link that is in no list, if it was initialised. */
static inline void list_remove(struct list *link)
{
	link->prev->next = link->next;
	link->next->prev = link->prev;
	list_init(link);
}

static inline int list_empty(const struct list *head)
{
	return head->next == head;
}

#endif
