/* The end of a step that has been without the loop, in the plain case: its LWP holds the loop once more, and has nothing
 * else to see to.
 *
 * The text is Turns.after_step (loop/turns.py); what is not plain is left to it, before anything has changed.
 */
#include "core.h"

static PyObject *bound_name, *nested_name;

/* Whether the steps that come need not be looked at before they are run. */
static int is_free(FollowingFields *following, PyObject *affinity)
{
    TracersFields *tracers = (TracersFields *)following->tracers;
    if (tracers == NULL || !PyObject_TypeCheck(following->tracers, tracers_fields_type) || tracers->active)
        return 0;
    int is = is_false_attribute(affinity, bound_name);
    return is > 0 ? is_false_attribute(affinity, nested_name) : is;
}

int after_step(LwpFields *lwp, RecordFields *record, FollowingFields *following, PyObject *affinity, PyObject *ended)
{
    WatchFields *watch = watch_of(lwp);
    LuggageFields *luggage = luggage_of(lwp);
    if (!lwp->lost_loop || record->holder != (PyObject *)lwp || lwp->region != Py_None || watch == NULL ||
        watch->trap != Py_None || watch->call != Py_None || luggage == NULL || luggage->check_bindings ||
        following->values == NULL || lwp->handle == NULL || fd_fields_of(lwp->handle) != NULL)
        return 0;
    int is = following_has_dressed(following, lwp, luggage);
    if (is > 0)
        is = is_free(following, affinity);
    if (is > 0) {
        lwp->slow_exit = lwp->lost_loop = false;
        Py_SETREF(lwp->handle, Py_NewRef(ended)); /* its finalizers may block */
    }
    return is;
}

int after_step_exec(PyObject *Py_UNUSED(module))
{
    static const Name names[] = {
        {&bound_name, "bound"},
        {&nested_name, "nested"},
        {NULL, NULL},
    };
    return intern(names);
}
